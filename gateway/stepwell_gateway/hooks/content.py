"""Bodies of deliveries as JSON values: JSON, forms and text, by the type that the sender declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import parse_qsl

from stepwell.domain.documents import MAX_KEYS, JsonValue, check, loads
from stepwell.domain.errors import DocumentError
from stepwell_gateway.hooks.delivery import Delivery
from stepwell_gateway.problems import Problem

Read: TypeAlias = Callable[[bytes], JsonValue]
"""Raises DocumentError for what is not of the declared type, or cannot be stored."""

_FORM = "application/x-www-form-urlencoded"
_BATCH = "application/cloudevents-batch+json"
_CHARSETS = {"utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "iso-8859-1": "latin-1"}
_ACCEPTED = f"application/json, +json, {_FORM}, text/*"


def media_type(declared: str) -> tuple[str, str | None]:
    """The type and the charset of a ``Content-Type``, in lower case."""
    kind, *parameters = declared.split(";")
    charset = None
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
    return kind.strip().lower(), charset


def reader_of(delivery: Delivery) -> Read:
    """What reads the delivery's body. Raises Problem 415. A body without a type is JSON, and an empty one is null."""
    if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in delivery.headers):
        raise _unsupported("a body is sent as it is, without Content-Encoding", "Accept-Encoding", "identity")
    declared = (delivery.header(b"content-type") or b"").decode("latin-1")
    if not declared.strip():
        return read_json if delivery.body else _nothing
    return reader_of_type(declared)


def reader_of_type(declared: str) -> Read:
    """The same for a type."""
    kind, charset = media_type(declared)
    if kind == "application/json" or (kind.endswith("+json") and kind != _BATCH):
        if charset in {None, "utf-8", "utf8", "us-ascii"}:
            return read_json
        why = f"JSON is UTF-8, not {charset}"
        raise _unsupported(why)
    codec = _CHARSETS.get(charset or "utf-8")
    if codec is not None and kind == _FORM:
        return lambda body: _read_form(body, codec)
    if codec is not None and kind.startswith("text/"):
        return lambda body: _read_text(body, codec)
    why = f"{declared[:100]!r} is none of the types {_ACCEPTED} in UTF-8"
    raise _unsupported(why)


def read_json(body: bytes) -> JsonValue:
    """JSON, as it can be stored."""
    return loads(body, what="the body")


def _read_form(body: bytes, codec: str) -> JsonValue:
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, encoding=codec, errors="strict", max_num_fields=MAX_KEYS)
    except ValueError as exc:  # UnicodeDecodeError is one
        message = f"the body is not a form: {exc}"
        raise DocumentError(message) from exc
    form: dict[str, JsonValue] = dict(pairs)
    check(form, what="the body")
    return form


def _read_text(body: bytes, codec: str) -> JsonValue:
    try:
        text = body.decode(codec)
    except UnicodeDecodeError as exc:
        message = f"the body is not {codec} text: {exc}"
        raise DocumentError(message) from exc
    check(text, what="the body")
    return text


def _nothing(_: bytes) -> JsonValue:
    return None


def _unsupported(why: str, header: str = "Accept-Post", value: str = _ACCEPTED) -> Problem:
    return Problem(415, why, headers={header: value})
