"""JSON documents as Stepwell accepts, stores and hands them on.

What is stored is always our own serialisation of a parsed value, never a client's text: eight bytes such as
``1e131071`` would be read back as a number of 131,072 digits. ``loads`` is therefore the only door for bytes from
outside and refuses by name what PostgreSQL, CEL or another JSON reader would change or choke on.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn, TypeAlias

import orjson

from stepwell.domain.errors import DocumentError

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = "dict[str, JsonValue]"

MAX_BYTES = 1 << 20  # one document: a run's input, a step's output
MAX_DEPTH = 64
MAX_KEYS = 10_000
MAX_INTEGER = 2**63 - 1  # what CEL and PostgreSQL's bigint hold

_SMALL = 3_000  # bytes
_LONG_NUMBER = re.compile(rb"\d{17,}")


def loads(data: bytes | str, *, max_bytes: int = MAX_BYTES, what: str = "the document") -> JsonValue:
    """Parse JSON text from outside. Of duplicate keys the last wins.

    Raises DocumentError, with the reason, for text that is not JSON, is larger than ``max_bytes``, is nested deeper
    than 64, has over 10,000 keys, or holds a NUL character, a lone surrogate or an integer beyond 64 bits.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(raw) > max_bytes:
        message = f"{what} has {len(raw):,} bytes; at most {max_bytes:,} are allowed"
        raise DocumentError(message)
    try:
        value: JsonValue = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        _refuse_text(raw, exc, what)
    if _LONG_NUMBER.search(raw):
        _refuse_huge_integers(raw, what)
    check(value, what=what)
    return value


def dumps(value: object) -> bytes:
    """Serialise a value that ``check`` accepts. Raises DocumentError for anything that is not JSON."""
    try:
        document = orjson.dumps(value)
    except (orjson.JSONEncodeError, RecursionError) as exc:
        message = f"a value is not JSON: {exc}"
        raise DocumentError(message) from exc
    # What orjson returns keeps a buffer of some 4 KB; documents are small, and thousands wait for a flush.
    return bytes(memoryview(document)) if len(document) < _SMALL else document


def check(value: JsonValue, *, what: str = "the document") -> None:
    """Raise DocumentError unless the value can be stored and read back unchanged."""
    keys = 0
    level: list[JsonValue] = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[JsonValue] = []
        for node in level:
            if isinstance(node, str):
                _check_text(node, what)
            elif isinstance(node, dict):
                keys += len(node)
                for key in node:
                    _check_text(key, what)
                inner.extend(node.values())
            elif isinstance(node, list):
                inner.extend(node)
        if keys > MAX_KEYS:
            _refuse(what, f"has over {MAX_KEYS:,} keys")
        if not inner:
            return
        level = inner
    _refuse(what, f"is nested deeper than {MAX_DEPTH} levels")


def _check_text(text: str, what: str) -> None:
    if "\0" in text:
        _refuse(what, "holds a NUL character (\\u0000), which PostgreSQL cannot store")


def _refuse(what: str, why: str) -> NoReturn:
    message = f"{what} {why}"
    raise DocumentError(message)


def _refuse_text(raw: bytes, exc: Exception, what: str) -> NoReturn:
    if re.search(rb"\\u[dD][89a-fA-F]", raw) and "surrogate" in str(exc):
        message = f"{what} holds a lone surrogate (half of a character, such as \\ud800), which is not valid text"
    elif "surrogate" in str(exc) or "utf-8" in str(exc).lower():
        message = f"{what} is not valid UTF-8 text: {exc}"
    else:
        message = f"{what} is not valid JSON: {exc}"
    raise DocumentError(message) from exc


def _refuse_huge_integers(raw: bytes, what: str) -> None:
    """Orjson turns integers beyond 64 bits into floats, so the exact parser has a second look."""

    def exact(digits: str) -> int:
        if len(digits) > 20 or abs(int(digits)) > MAX_INTEGER:
            shown = digits if len(digits) <= 24 else f"{digits[:20]}…"
            _refuse(what, f"holds the integer {shown}, which is beyond 64 bits; send it as a string")
        return 0

    try:
        json.loads(raw, parse_int=exact)
    except RecursionError:
        _refuse(what, f"is nested deeper than {MAX_DEPTH} levels")
