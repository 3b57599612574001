"""Durations as the Gateway API writes them (GEP-2257): ``1h30m``, ``10s``, ``250ms``; in seconds once they are read."""

from __future__ import annotations

import re

SHORTEST = 0.001
LONGEST = 8760 * 3600.0
PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"

_PARTS = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_WHOLE = re.compile(PATTERN[:-1] + r"\Z")
_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


def parse_duration(text: object) -> float:
    """Seconds, exact to the millisecond. Raises ValueError, saying what a duration looks like."""
    if not isinstance(text, str):
        message = f"a duration is a string with a unit such as 10s, 250ms or 1h30m, not {_shown(text)}"
        raise ValueError(message)  # noqa: TRY004 - pydantic turns ValueError into a problem of the field
    if not _WHOLE.match(text):
        message = f"{text[:40]!r} is no duration: write whole numbers with h, m, s or ms, as in 10s, 250ms or 1h30m"
        raise ValueError(message)
    seconds = sum(int(number) * _MILLISECONDS[unit] for number, unit in _PARTS.findall(text)) / 1000
    if not 0 < seconds <= LONGEST:
        message = f"the duration {text} is out of range: it must be over 0s and at most 8760h"
        raise ValueError(message)
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that parses back to ``seconds`` (rounded to the millisecond); ``0s`` for zero."""
    rest = round(seconds * 1000)
    parts = []
    for unit, size in _MILLISECONDS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, (int, float)) else f"a {'list' if isinstance(value, list) else 'map'}"
