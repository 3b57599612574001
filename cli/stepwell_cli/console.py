"""The terminal: people read stderr, programs read stdout."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from rich.console import Console


@cache
def stderr() -> Console:
    """What people see. No colours and no movement where it is no terminal, or where NO_COLOR asks for none."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)


@cache
def pages(*, error: bool = False) -> Console:
    """For tables that a command was asked for, on stdout or stderr; as wide as they are where that is no terminal."""
    from rich.console import Console

    width = None if (sys.stderr if error else sys.stdout).isatty() else 10_000
    return Console(stderr=error, highlight=False, emoji=False, markup=False, width=width)


def say(line: str) -> None:
    """One line for people."""
    print(plain(line), file=sys.stderr, flush=True)


def print_json(value: Any, *, one_line: bool = False) -> None:
    """A JSON document on stdout: indented for people, one line for programs."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() and not one_line else 0
    text = orjson.dumps(value, option=option | orjson.OPT_UTC_Z, default=str).decode()
    sys.stdout.write(text.translate(_BARE_CONTROLS) + "\n")
    sys.stdout.flush()


def plain(text: str) -> str:
    """Text that came from elsewhere, without what a terminal would take for a command."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def shorten(text: str, limit: int) -> str:
    """The text, cut to ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def compact(value: Any, limit: int = 200) -> str:
    """A document in one line of at most ``limit`` characters."""
    return plain(shorten(orjson.dumps(value, default=str).decode(), limit))


#: DEL and the C1 controls, which JSON lets stand bare, and a terminal obeys
_BARE_CONTROLS = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
