"""CEL values as JSON, the way CEL itself converts them.

https://github.com/google/cel-spec/blob/master/doc/langdef.md#json-data-conversion: bytes become base64, timestamps
RFC 3339, durations seconds, and keys of maps strings.
"""

from __future__ import annotations

import base64
import math
from datetime import UTC, datetime, timedelta

from stepwell.domain.documents import MAX_DEPTH, MAX_INTEGER, JsonValue


def to_json(value: object, depth: int = 1) -> JsonValue:
    """A value as the library returns it, as JSON; maps come sorted by key, for the library's order is random.

    Raises ValueError, saying why, for what is not JSON or could not be stored.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        if value > MAX_INTEGER:
            message = f"the result holds the integer {value}, which is beyond 64 bits"
            raise ValueError(message)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            message = f"the result holds the number {value}, which JSON does not have"
            raise ValueError(message)
        return value
    if isinstance(value, list | dict):
        return _container(value, depth)
    return _scalar(value)


def duration_text(value: timedelta) -> str:
    """Seconds with 0, 3 or 6 decimals, as CEL's ``string()`` gives."""
    micros = value // timedelta(microseconds=1)
    sign = "-" if micros < 0 else ""
    seconds, rest = divmod(abs(micros), 1_000_000)
    return f"{sign}{seconds}{_fraction(rest)}s"


def timestamp_text(value: datetime) -> str:
    """RFC 3339 in UTC, as CEL's ``string()`` gives."""
    moment = value.astimezone(UTC)
    whole = moment.replace(tzinfo=None, microsecond=0).isoformat()
    return f"{whole}{_fraction(moment.microsecond)}Z"


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("the result holds a NUL character (\\u0000), which cannot be stored")
    return value


def _container(value: list[object] | dict[object, object], depth: int) -> JsonValue:
    if depth > MAX_DEPTH:
        message = f"the result is nested deeper than {MAX_DEPTH} levels"
        raise ValueError(message)
    if isinstance(value, list):
        return [to_json(item, depth + 1) for item in value]
    named = {_key(key): item for key, item in value.items()}
    if len(named) < len(value):
        raise ValueError("the result holds a map in which two keys are the same as text")
    return {key: to_json(named[key], depth + 1) for key in sorted(named)}


def _key(key: object) -> str:
    if isinstance(key, str):
        return _text(key)
    return str(key).lower() if isinstance(key, bool) else str(key)


def _scalar(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return timestamp_text(value)
    if isinstance(value, timedelta):
        return duration_text(value)
    raise ValueError("the result is a type, not a value; string() gives its name")


def _fraction(micros: int) -> str:
    if not micros:
        return ""
    return f".{micros // 1000:03d}" if micros % 1000 == 0 else f".{micros:06d}"
