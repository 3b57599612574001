"""CloudEvents 1.0 over HTTP: attributes in ``ce-`` headers (binary mode) or around the data (structured mode).

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from urllib.parse import unquote

from stepwell.domain.documents import JsonObject, JsonValue, check
from stepwell.domain.errors import DocumentError
from stepwell_gateway.hooks.content import media_type, read_json, reader_of_type
from stepwell_gateway.hooks.delivery import Delivery
from stepwell_gateway.problems import Problem

STRUCTURED = "application/cloudevents+json"

_REQUIRED = ("id", "source", "specversion", "type")


def is_structured(delivery: Delivery) -> bool:
    """Whether the body is an event."""
    return media_type((delivery.header(b"content-type") or b"").decode("latin-1"))[0] == STRUCTURED


def structured(body: JsonValue) -> tuple[JsonObject, JsonValue]:
    """The event's attributes, and its data. Raises DocumentError."""
    if not isinstance(body, dict):
        raise DocumentError("the body is no CloudEvent: it is a JSON object")
    event: JsonObject = {key: value for key, value in body.items() if key not in {"data", "data_base64"}}
    _check(event)
    if "data_base64" in body:
        return event, _decoded(body["data_base64"], str(event.get("datacontenttype") or ""))
    return event, body.get("data")


def binary(delivery: Delivery) -> JsonObject:
    """The attributes in a delivery's headers; empty where it is no event. Raises DocumentError."""
    event: JsonObject = {}
    for name, value in delivery.headers:
        if name.startswith(b"ce-"):
            event[name[3:].decode("latin-1")] = _unquoted(value)
    if "specversion" not in event:
        return {}
    _check(event)
    declared = delivery.header(b"content-type")
    if declared:
        event["datacontenttype"] = declared.decode("latin-1")
    check(event, what="the event")
    return event


def _check(event: JsonObject) -> None:
    for name in _REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            message = f"the CloudEvent has no attribute {name}, which is a text"
            raise DocumentError(message)
    if event["specversion"] != "1.0":
        message = f"the CloudEvent is of version {event['specversion']}; only 1.0 is known"
        raise DocumentError(message)


def _unquoted(value: bytes) -> str:
    text = value.decode("latin-1").strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as exc:
        raise DocumentError("an attribute of the CloudEvent is not percent-encoded UTF-8") from exc


def _decoded(value: JsonValue, declared: str) -> JsonValue:
    """Data of a type that is read elsewhere, too, is read; other data stays Base64."""
    if not isinstance(value, str):
        raise DocumentError("the CloudEvent's data_base64 is a text")
    try:
        data = b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise DocumentError("the CloudEvent's data_base64 is no Base64") from exc
    try:
        return reader_of_type(declared)(data) if declared else read_json(data)
    except Problem:
        return value
