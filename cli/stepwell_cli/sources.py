"""What a command reads: manifests and inputs, from files, from stdin, or as given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell.domain.documents import loads
from stepwell.domain.errors import UsageError

if TYPE_CHECKING:
    from stepwell.domain.documents import JsonValue

STDIN = "-"


def read_file(name: str) -> tuple[str, str]:
    """The text of a file (``-``: stdin) and the name to show. Raises UsageError."""
    data = sys.stdin.buffer.read() if name == STDIN else _bytes(name)
    return _decoded(data, shown_name(name)), shown_name(name)


def shown_name(name: str) -> str:
    """A file's name as messages show it."""
    return "<stdin>" if name == STDIN else name


def read_input(given: str | None) -> JsonValue:
    """The input that ``--input`` names: JSON, ``@file`` or ``-``; ``{}`` without. Raises UsageError, DocumentError."""
    if given is None:
        return {}
    if given == STDIN:
        return loads(sys.stdin.buffer.read(), what="the input on stdin")
    if given.startswith("@"):
        return loads(_bytes(given[1:]), what=f"the input in {given[1:]}")
    return loads(given, what="the input")


def _bytes(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as exc:
        message = f"{name}: cannot be read: {exc.strerror}"
        raise UsageError(message) from exc


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        message = f"{name}: not UTF-8 text (byte {exc.start})"
        raise UsageError(message) from exc
