"""A run and its steps as people see them: a table that moves, or a line a change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from stepwell_cli.console import plain, say, shorten, stderr

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import RenderableType

    from stepwell_cli.progress import Progress, StepProgress

_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "red",
    "cancelled": "yellow",
    "retrying": "yellow",
    "running": "cyan",
    "skipped": "dim",
    "pending": "dim",
    "stopped": "yellow",
    "not run": "dim",
    "queued": "dim",
    "waiting": "cyan",
}
_MARKS = {
    "succeeded": "✓",
    "failed": "✗",
    "timed_out": "✗",
    "cancelled": "✗",
    "retrying": "↻",
    "stopped": "✗",
    "skipped": "»",
}
_LETTERS = {"✓": "+", "✗": "x", "↻": "~", "»": ">", "·": "."}


class View(Protocol):
    """Shows how far a run is."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: object, error: object, trace: TracebackType | None, /) -> None: ...
    def phase(self, words: str) -> None:
        """What goes on before there is a run."""

    def show(self, progress: Progress) -> None:
        """The run as it is now."""


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: TracebackType | None, /) -> None:
        """Nothing to end."""

    def phase(self, words: str) -> None:
        """See View."""

    def show(self, progress: Progress) -> None:
        """See View."""


class Lines(Quiet):
    """A line a change, where stderr is no terminal."""

    def __init__(self) -> None:
        self._run = ""
        self._steps: dict[str, tuple[str, int]] = {}

    def show(self, progress: Progress) -> None:
        """See View."""
        run = progress.run
        if run.id != self._run:
            self._run = run.id
            say(f"run {run.id} of {run.namespace}/{run.workflow} is {run.status}")
        for step in progress.steps:
            mark = (step.state, step.attempt)
            if step.attempt and self._steps.get(step.name) != mark:
                self._steps[step.name] = mark
                say(_line(step))
        if progress.ended:
            say(f"run {run.id} {summary(progress)}")


class LiveTable(Quiet):
    """The table that moves while the run does, and stays when it has ended."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._phase = Spinner("dots", "")
        self._running = Spinner("dots", style="cyan")
        self._live = Live(console=stderr(), get_renderable=self._render, refresh_per_second=12, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: object, error: object, trace: TracebackType | None, /) -> None:
        if self._progress is None:
            self._phase = Spinner("dots", "")
            self._live.transient = True
        self._live.stop()
        if self._progress is not None:
            stderr().print()

    def phase(self, words: str) -> None:
        """See View."""
        self._phase.update(text=Text(words, style="dim"))

    def show(self, progress: Progress) -> None:
        """See View."""
        self._progress = progress

    def _render(self) -> RenderableType:
        if self._progress is None:
            return self._phase
        return Group(_title(self._progress), Text(), steps_table(self._progress, self._running))


def steps_table(progress: Progress, running: RenderableType = "") -> Table:
    """A row a step; ``running`` marks those that run."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    retried = any(step.attempt > 1 for step in progress.steps)
    table.add_column("", width=1)
    for name in ("STEP", "ACTION", "STATE", *(["ATTEMPT"] if retried else []), "TIME"):
        table.add_column(name, no_wrap=True, justify="right" if name in {"ATTEMPT", "TIME"} else "left")
    table.add_column("", overflow="fold", min_width=16)  # the only one that wraps, so the others keep their width
    for step in progress.steps:
        table.add_row(
            running if step.state == "running" else mark(step.state),
            step.name,
            Text(step.action, style="dim"),
            styled(step.state),
            *([str(step.attempt or "")] if retried else []),
            _duration_of(step),
            Text(_note(step), style="dim"),
        )
    return table


def view(*, quiet: bool = False) -> View:
    """The view that fits where stderr goes."""
    if quiet:
        return Quiet()
    return LiveTable() if stderr().is_terminal and not stderr().is_dumb_terminal else Lines()


def mark(state: str) -> Text:
    """The sign of a state, in letters where the terminal has no others."""
    sign = _MARKS.get(state, "·")
    if not stderr().encoding.lower().startswith("utf"):
        sign = _LETTERS[sign]
    return Text(sign, style=_STYLES.get(state, ""))


def styled(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=_STYLES.get(state, ""))


def summary(progress: Progress) -> str:
    """How the run stands, in words: ``succeeded in 31 ms``."""
    words = progress.run.status.replace("_", " ")
    run = progress.run
    if run.finished_at is None:
        return words
    return f"{words} {'in' if run.status == 'succeeded' else 'after'} {elapsed(run.created_at, run.finished_at)}"


def elapsed(start: datetime, end: datetime | None = None) -> str:
    """The time between two moments (default: now), as short as it can be read."""
    seconds = max(0.0, ((end or datetime.now(UTC)) - start).total_seconds())
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _title(progress: Progress) -> Text:
    run = progress.run
    words = summary(progress) if progress.ended else f"{run.status} {elapsed(run.created_at)}"
    return Text.assemble(
        (f"{run.namespace}/{run.workflow}", "bold"),
        "  ",
        (run.id, "dim"),
        "  ",
        (words, _STYLES.get(run.status, "")),
    )


def _duration_of(step: StepProgress) -> str:
    if step.started_at is None:
        return ""
    return elapsed(step.started_at, step.finished_at)


def _note(step: StepProgress) -> str:
    items = "" if step.items is None else f"{step.items[0]:,}/{step.items[1]:,} items"
    return ", ".join(filter(None, (items, _why(step))))


def _why(step: StepProgress) -> str:
    """Why it failed, also where it went on after some of its items did."""
    message = shorten(plain(step.message).replace("\n", " "), 300)
    if step.retry_at is None:
        return message if step.state in {"failed", "succeeded"} else ""
    left = (step.retry_at - datetime.now(UTC)).total_seconds()
    return f"again in {left:.0f} s: {message}" if left > 0.5 else f"again now: {message}"


def _line(step: StepProgress) -> str:
    tries = f", attempt {step.attempt}" if step.attempt > 1 or step.state == "retrying" else ""
    note = f": {_note(step)}" if _note(step) else ""
    return f"step {step.name} {step.state}{tries} ({_duration_of(step)}){note}"
