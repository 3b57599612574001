"""Masks secrets in whatever comes back from where they were sent.

A server may repeat a credential in its answer: as it stands, in Base64 (alone or inside of something longer, so in three
alignments), percent-encoded in a URL, escaped in JSON, HTML or a quoted message. Every such form of every known value of
eight bytes and more becomes ``***``. Most texts hold none, which a plain search for each form tells in microseconds;
only a text with a find is taken apart.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from stepwell.domain.documents import JsonValue, dumps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "***"
MIN_BYTES = 8
"""Shorter values are not masked: they would be found in the middle of innocent text."""
MIN_REST = 4
"""Characters of a form's beginning that are masked at the end of a text that was cut."""

_UNRESERVED_BY = ("", "/", "!'()*~", "/:@!$&'()*+,;=~")
"""What the common encoders leave as it is: strict ones, Python's, JavaScript's, and those for paths."""
_WEB_JSON = (
    ("<>&", "\\u%04x"),  # Go, Ruby on Rails
    ("<>&='", "\\u%04x"),  # Gson
    ("<>&", "\\u%04X"),  # Django
    ("<>&'\"", "\\u%04X"),  # PHP, where it is told to
    ("<>&'\"+`\x7f", "\\u%04X"),  # .NET, beside all that is not ASCII
)
"""What the common encoders of JSON escape so that it may stand in a page, and how."""


class Mask:
    """Knows some values and hides them."""

    __slots__ = ("_dumped", "_forms", "_shortest")

    def __init__(self, values: Iterable[bytes] = ()) -> None:
        forms = {form for value in values if len(value) >= MIN_BYTES for form in _forms(value)}
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        self._shortest = len(self._forms[-1]) if forms else 0
        self._dumped = tuple({dumps(form).decode()[1:-1] for form in forms})

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __repr__(self) -> str:
        return f"Mask({MASK})"

    def found(self, text: str) -> bool:
        """Whether the text holds a form of a value."""
        return len(text) >= self._shortest and _holds(text, self._forms)

    def text(self, text: str, *, cut: bool = False) -> str:
        """The text without the values. ``cut``: it may end in the middle of one."""
        if len(text) >= self._shortest:
            for form in self._forms:  # the longest first; a pattern of all takes seconds where a text nearly matches it
                if form in text:
                    text = text.replace(form, MASK)
        return self._without_rest(text) if cut else text

    def value(self, value: JsonValue) -> JsonValue:
        """The document without the values, in strings, names of fields and numbers; itself where it holds none."""
        if not self._forms:
            return value
        return self._walk(value) if _holds(dumps(value).decode(), self._dumped) else value

    def _walk(self, value: JsonValue) -> JsonValue:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self._walk(child) for key, child in value.items()}
        if isinstance(value, list):
            return [self._walk(child) for child in value]
        if isinstance(value, int | float) and not isinstance(value, bool) and self.found(dumps(value).decode()):
            return MASK
        return value

    def _without_rest(self, text: str) -> str:
        for form in self._forms:
            for length in range(min(len(form) - 1, len(text)), MIN_REST - 1, -1):
                if text.endswith(form[:length]):
                    return f"{text[:-length]}{MASK}"
        return text


NO_MASK = Mask()


@lru_cache(maxsize=256)
def mask_of(values: tuple[bytes, ...]) -> Mask:
    """The mask of these values; the same object while they stay the same."""
    return Mask(values)


def _holds(text: str, forms: tuple[str, ...]) -> bool:
    for form in forms:  # noqa: SIM110 - half the time of any(), and every answer to a secret comes by here
        if form in text:
            return True
    return False


def _forms(value: bytes) -> Iterator[str]:
    for encoded in _base64(value):
        yield encoded
        yield encoded.replace("+", "-").replace("/", "_")
    yield repr(value)[2:-1]
    text = value.decode("utf-8", "surrogateescape")
    if not text.isascii() and any(0xDC80 <= ord(char) <= 0xDCFF for char in text):
        text = value.decode("latin-1")
    yield text.lower()  # as the name of a header
    yield repr(text)[1:-1]
    plain = {text, html.escape(text), html.escape(text, quote=False), text.replace("/", "\\/")}
    once = _in_json(plain)
    web = {_in_web_json(text, marks, form) for marks, form in _WEB_JSON}
    # Twice: JSON that a string of JSON holds, as it stands in an excerpt.
    yield from plain | once | _in_json(once) | web | _in_json(web)
    yield html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
    yield from _percent_encoded(value)


def _in_json(texts: set[str]) -> set[str]:
    return {escape(text)[1:-1] for text in texts for escape in (json.dumps, lambda text: dumps(text).decode())}


def _in_web_json(text: str, marks: str, form: str) -> str:
    ascii_only = "+" in marks
    return "".join(
        "".join(form % unit for unit in _utf16(char))
        if char in marks or (ascii_only and not char.isascii())
        else json.dumps(char, ensure_ascii=False)[1:-1]
        for char in text
    )


def _utf16(char: str) -> Iterator[int]:
    units = char.encode("utf-16-be", "surrogatepass")
    return (int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2))


def _base64(value: bytes) -> Iterator[str]:
    """The characters that depend on nothing but the value, where it begins at byte 0, 1 or 2 of a group of three."""
    for before in range(3):
        encoded = b64encode(b"\0" * before + value).decode()
        yield encoded[-(-before * 8 // 6) : (before + len(value)) * 8 // 6]


def _percent_encoded(value: bytes) -> Iterator[str]:
    every = "".join(f"%{byte:02X}" for byte in value)
    for form in (every, *(quote(value, safe=safe) for safe in _UNRESERVED_BY)):
        yield from _both_cases(form)
        yield from _both_cases(form.replace("%20", "+"))


def _both_cases(form: str) -> tuple[str, str]:
    return form, re.sub("%..", lambda match: match[0].lower(), form)
