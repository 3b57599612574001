"""Draws the panels of the Grafana dashboard as one SVG, from what a Prometheus says to their queries.

    python tools/dashboard_picture.py --prometheus http://127.0.0.1:9090 --minutes 6 --rate 30s > dashboard.svg
    python tools/dashboard_picture.py --minutes 6 --rate 30s --row Overview --width 1000 > overview.svg

It shows what the queries give; it is not Grafana. Only the standard library is needed; any renderer of SVG makes a PNG of it.
"""

# ruff: noqa: INP001 - a script, not a package

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

DASHBOARD = Path(__file__).parents[1] / "deploy" / "components" / "monitoring" / "dashboard.json"
WIDTH, LINE, GAP = 1590, 19, 6  # pixels; a line is a unit of height of Grafana's grid, whose width has 24
POINTS = 180
COLORS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#f2495c", "#8ab8ff", "#fade2a", "#96d98d", "#ca95e5")
NAMED = {
    "green": "#73bf69",
    "yellow": "#f2cc0c",
    "blue": "#5794f2",
    "orange": "#ff9830",
    "purple": "#b877d9",
    "red": "#f2495c",
}
TEXT, FAINT, PANEL, EDGE, GROUND = "#d8d9da", "#8e8e8e", "#181b1f", "#2c3235", "#111217"


@dataclass(frozen=True)
class Source:
    """A Prometheus and the time that is shown."""

    url: str
    start: float
    end: float
    rate: str

    def series(self, target: dict[str, Any]) -> list[tuple[str, list[tuple[float, float]]]]:
        """The lines of a query: (legend, [(time, value)])."""
        expression = target["expr"].replace("$__rate_interval", self.rate)
        expression = expression.replace("$namespace", ".*").replace("$workflow", ".*")
        values = {
            "query": expression, "start": self.start, "end": self.end, "step": (self.end - self.start) / POINTS
        }  # fmt: skip
        url = f"{self.url}/api/v1/query_range?{urllib.parse.urlencode(values)}"
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 (the caller's own Prometheus)
            found = json.load(answer)["data"]["result"]
        lines = [(_legend(target["legendFormat"], each["metric"]), _numbers(each["values"])) for each in found]
        return sorted(line for line in lines if line[1])


def _legend(form: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        form = form.replace("{{" + name + "}}", value)
    return form


def _numbers(values: list[list[Any]]) -> list[tuple[float, float]]:
    return [(at, float(value)) for at, value in values if math.isfinite(float(value))]


# -- numbers with their units ----------------------------------------------------------------------------------------


def shown(value: float, unit: str) -> str:
    """As Grafana would write it."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        if value and value < 1:
            return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"
        return f"{value:.3g} s" if value < 90 else f"{value / 60:.3g} min"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    suffix = {"ops": "/s", "reqps": "/s"}.get(unit, "")
    return f"{value:.3g}{suffix}"


def ceiling(value: float, unit: str) -> float:
    """A round number that is no smaller."""
    if value <= 0:
        return 1.0
    if unit == "bytes":
        return 2**20 * ceiling(value / 2**20, "")
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value * 0.999)


# -- drawing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float


def text(x: float, y: float, words: str, size: float = 11, color: str = TEXT, **more: str) -> str:
    """A line of text."""
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}"{extra}>{escape(words)}</text>'


def box_of(panel: dict[str, Any], top: float, column: float) -> Box:
    """Where a panel is; ``column`` is a 24th of the width."""
    grid = panel["gridPos"]
    return Box(
        GAP + grid["x"] * column, top + grid["y"] * LINE, grid["w"] * column - GAP, grid["h"] * LINE - GAP
    )  # fmt: skip


def frame(panel: dict[str, Any], box: Box) -> str:
    """The panel's ground and title."""
    ground = f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="2" fill="{PANEL}" stroke="{EDGE}"/>'
    return ground + text(box.x + 8, box.y + 16, panel["title"], 11.5, TEXT, font_weight="bold")


def stat(panel: dict[str, Any], box: Box, source: Source) -> Iterator[str]:
    """The last value, in the color of its threshold."""
    yield frame(panel, box)
    defaults = panel["fieldConfig"]["defaults"]
    lines = source.series(panel["targets"][0])
    value = lines[0][1][-1][1] if lines else None
    steps = [step for step in defaults["thresholds"]["steps"] if step["value"] is None or (value or 0) >= step["value"]]
    words = "-" if value is None else shown(value, defaults["unit"])
    middle = box.x + box.width / 2
    yield text(middle, box.y + box.height - 18, words, 25, NAMED[steps[-1]["color"]], text_anchor="middle")


def graph(panel: dict[str, Any], box: Box, source: Source) -> Iterator[str]:
    """Lines over time, stacked where the panel says so."""
    yield frame(panel, box)
    lines = [line for target in panel["targets"] for line in source.series(target)]
    inner = Box(box.x + 58, box.y + 26, box.width - 70, box.height - 66)
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    drawn = _stacked(lines) if stacked else [(name, points, []) for name, points in lines]
    top = ceiling(max((value for _, points, _ in drawn for _, value in points), default=0.0), defaults["unit"])
    top = min(top, defaults.get("max", top)) if drawn else top
    yield from _axes(inner, source, top, defaults["unit"])
    if not drawn:
        yield text(inner.x + inner.width / 2, inner.y + inner.height / 2, "No data", 12, FAINT, text_anchor="middle")
    colors = _colors(panel, [name for name, _, _ in drawn])
    for name, points, floor in drawn:
        yield from _line(inner, source, top, points, floor, colors[name], filled=stacked)
    yield from _legends(box, [(name, colors[name]) for name, _, _ in drawn])


def _stacked(lines: list[tuple[str, list[tuple[float, float]]]]) -> list[Any]:
    below: dict[float, float] = {}
    drawn = []
    for name, points in lines:
        floor = [(at, below.get(at, 0.0)) for at, _ in points]
        raised = [(at, value + below.get(at, 0.0)) for at, value in points]
        below.update(raised)
        drawn.append((name, raised, floor))
    return drawn[::-1]


def _axes(inner: Box, source: Source, top: float, unit: str) -> Iterator[str]:
    for part in range(5):
        y = inner.y + inner.height * (1 - part / 4)
        yield f'<line x1="{inner.x}" x2="{inner.x + inner.width}" y1="{y:.1f}" y2="{y:.1f}" stroke="{EDGE}"/>'
        yield text(inner.x - 6, y + 4, shown(top * part / 4, unit), 10, FAINT, text_anchor="end")
    minutes = (source.end - source.start) / 60
    for part in range(4):
        words = "now" if part == 3 else f"-{minutes * (3 - part) / 3:.2g} min"
        anchor = ("start", "middle", "middle", "end")[part]
        yield text(inner.x + inner.width * part / 3, inner.y + inner.height + 14, words, 10, FAINT, text_anchor=anchor)


def _line(
    inner: Box, source: Source, top: float, points: list[Any], floor: list[Any], color: str, *, filled: bool
) -> Iterator[str]:
    def place(at: float, value: float) -> str:
        x = inner.x + inner.width * (at - source.start) / (source.end - source.start)
        return f"{x:.1f},{inner.y + inner.height * (1 - min(value, top) / top):.1f}"

    for part in _unbroken(points, (source.end - source.start) / POINTS):
        path = " ".join(place(*point) for point in part)
        if filled:
            times = {at for at, _ in part}
            back = " ".join(place(*point) for point in reversed(floor) if point[0] in times)
            yield f'<polygon points="{path} {back}" fill="{color}" fill-opacity="0.35"/>'
        yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.4" stroke-linejoin="round"/>'


def _unbroken(points: list[Any], step: float) -> Iterator[list[Any]]:
    """The stretches without a gap."""
    part: list[Any] = []
    for point in points:
        if part and point[0] - part[-1][0] > 1.5 * step:
            yield part
            part = []
        part.append(point)
    if part:
        yield part


def _colors(panel: dict[str, Any], names: list[str]) -> dict[str, str]:
    fixed = {
        each["matcher"]["options"]: NAMED[each["properties"][0]["value"]["fixedColor"]]
        for each in panel["fieldConfig"]["overrides"]
    }
    free = [color for color in COLORS if color not in fixed.values()]
    others = [name for name in dict.fromkeys(names) if name not in fixed]
    return fixed | {name: free[at % len(free)] for at, name in enumerate(others)}


def _legends(box: Box, names: list[tuple[str, str]]) -> Iterator[str]:
    x = box.x + 12
    for name, color in dict.fromkeys(names):
        width = 22 + 6.3 * len(name)
        if x + width > box.x + box.width - 16:
            yield text(x, box.y + box.height - 9, "…", 11, FAINT)
            return
        y = box.y + box.height - 13
        yield f'<rect x="{x}" y="{y - 1.5}" width="12" height="3" fill="{color}"/>'
        yield text(x + 16, y + 4, name, 10.5, FAINT)
        x += width + 4


def row_of(panels: list[dict[str, Any]], title: str) -> list[dict[str, Any]]:
    """The row of that title, and the panels up to the next."""
    starts = [at for at, panel in enumerate(panels) if panel["type"] == "row"]
    first = next(at for at in starts if panels[at]["title"] == title)
    return panels[first : next((at for at in starts if at > first), len(panels))]


def picture(title: str, panels: list[dict[str, Any]], source: Source, caption: str, width: int) -> Iterator[str]:
    """The SVG, part by part."""
    column = (width - GAP) / 24
    top = 46 - panels[0]["gridPos"]["y"] * LINE
    height = top + max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels) * LINE + 30
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="Inter, Helvetica, DejaVu Sans, sans-serif"><rect width="100%" height="100%" fill="{GROUND}"/>'
    )
    yield text(12, 29, title, 19, TEXT, font_weight="bold")
    yield text(width - 12, 28, "Namespace: All    Workflow: All", 11.5, FAINT, text_anchor="end")
    for panel in panels:
        box = box_of(panel, top, column)
        if panel["type"] == "row":
            yield text(box.x + 4, box.y + 13, f"▾ {panel['title']}", 13, TEXT, font_weight="bold")
        else:
            yield from (stat if panel["type"] == "stat" else graph)(panel, box, source)
    yield text(12, height - 11, caption, 11.5, FAINT)
    yield "</svg>"


def main() -> None:
    """See the module."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=60, help="how much time is shown")
    parser.add_argument("--until", type=float, default=None, help="the end of it, in Unix seconds; default: now")
    parser.add_argument("--rate", default="1m", help="what $__rate_interval is")
    parser.add_argument("--row", choices=rows, help="what is drawn of it; default: all")
    parser.add_argument("--width", type=int, default=WIDTH, help=f"in pixels; default {WIDTH}")
    parser.add_argument(
        "--caption",
        default="Drawn by tools/dashboard_picture.py from the dashboard's queries; not a screenshot of Grafana.",
    )
    given = parser.parse_args()
    end = given.until or time.time()
    source = Source(given.prometheus.rstrip("/"), end - given.minutes * 60, end, given.rate)
    panels = dashboard["panels"] if given.row is None else row_of(dashboard["panels"], given.row)
    sys.stdout.write("\n".join(picture(dashboard["title"], panels, source, given.caption, given.width)) + "\n")


if __name__ == "__main__":
    main()
