"""The functions that Stepwell adds to CEL: its own, and list functions that the library lacks."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
from cel_expr_python import cel  # type: ignore[import-untyped, unused-ignore] # ships stubs, but no py.typed

from stepwell.domain.cel_chunks import CONCAT, concat
from stepwell.domain.cel_cost import MAX_RANGE
from stepwell.domain.cel_loops import EACH
from stepwell.domain.cel_values import to_json
from stepwell.domain.documents import loads

if TYPE_CHECKING:
    from collections.abc import Callable

T = cel.Type
LIST = T.List(T.DYN)
MAP = T.Map(T.DYN, T.DYN)
# an overload for "anything" matches nothing at run time, so there is one for each type
ANY = (T.BOOL, T.INT, T.UINT, T.DOUBLE, T.STRING, T.BYTES, T.NULL, LIST, MAP, T.TIMESTAMP, T.DURATION)


NAMES = frozenset(
    {"json", "toJson", "sha256", "urlencode", "range", "distinct", "flatten", "slice", "sort", EACH, CONCAT}
)


def declarations() -> list[cel.FunctionDecl]:
    """All of them, for ``cel.NewEnv``."""
    return [
        _function("json", T.DYN, _json, (T.STRING,)),
        _function("toJson", T.STRING, _to_json, *((kind,) for kind in ANY)),
        _function("sha256", T.STRING, _sha256, (T.STRING,), (T.BYTES,)),
        _function("urlencode", T.STRING, _urlencode, (T.STRING,)),
        _function(EACH, LIST, _each, (LIST,), (MAP,)),
        _function(CONCAT, LIST, concat, (LIST,)),
        _function("lists.range", T.List(T.INT), _range, (T.INT,)),
        _method("distinct", LIST, _distinct, (LIST,)),
        _method("flatten", LIST, _flatten, (LIST,), (LIST, T.INT)),
        _method("slice", LIST, _slice, (LIST, T.INT, T.INT)),
        _method("sort", LIST, _sort, (LIST,)),
    ]


def _function(name: str, result: Any, run: Callable[..., Any], *kinds: tuple[Any, ...]) -> cel.FunctionDecl:
    return _declare(name, result, run, kinds, is_member=False)


def _method(name: str, result: Any, run: Callable[..., Any], *kinds: tuple[Any, ...]) -> cel.FunctionDecl:
    return _declare(name, result, run, kinds, is_member=True)


def _declare(
    name: str, result: Any, run: Callable[..., Any], kinds: tuple[tuple[Any, ...], ...], *, is_member: bool
) -> cel.FunctionDecl:
    overloads = [
        cel.Overload(f"stepwell_{name}_{n}", return_type=result, parameters=list(kind), is_member=is_member, impl=run)
        for n, kind in enumerate(kinds)
    ]
    return cel.FunctionDecl(name, overloads)


def _each(value: list[Any] | dict[Any, Any]) -> list[Any]:
    if isinstance(value, list):
        return value
    return sorted(value, key=lambda key: (type(key).__name__, key))


def _json(text: str) -> object:
    return loads(text, what="the text given to json()")


def _to_json(value: object) -> str:
    return orjson.dumps(to_json(value)).decode()


def _sha256(value: str | bytes) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def _urlencode(text: str) -> str:
    return quote(text, safe="")


def _range(count: int) -> list[int]:
    if count > MAX_RANGE:
        message = f"lists.range() makes at most {MAX_RANGE:,} numbers"
        raise ValueError(message)
    return list(range(count))


def _distinct(items: list[Any]) -> list[Any]:
    found: dict[object, Any] = {}
    for item in items:
        # as in CEL, 1 and 1.0 are equal, 1 and true are not
        key = item if isinstance(item, str | int | float) and not isinstance(item, bool) else _identity(item)
        found.setdefault(key, item)
    return list(found.values())


def _identity(item: object) -> tuple[str, bytes]:
    return type(item).__name__, orjson.dumps(to_json(item), option=orjson.OPT_SORT_KEYS)


def _flatten(items: list[Any], depth: int = 1) -> list[Any]:
    if depth < 0:
        raise ValueError("flatten() takes a depth of 0 or more")
    if depth == 0:
        return items
    flat: list[Any] = []
    for item in items:
        if isinstance(item, list):
            flat += _flatten(item, depth - 1)
        else:
            flat.append(item)
    return flat


def _slice(items: list[Any], start: int, end: int) -> list[Any]:
    if not 0 <= start <= end <= len(items):
        message = f"slice({start}, {end}) does not lie within a list of {len(items)}"
        raise ValueError(message)
    return items[start:end]


def _sort(items: list[Any]) -> list[Any]:
    if len({_rank(item) for item in items}) > 1:
        raise ValueError("sort() takes a list of numbers, of strings, of booleans, of timestamps or of durations")
    return sorted(items)


def _rank(item: object) -> str:
    if isinstance(item, list | dict) or item is None:
        raise ValueError("sort() cannot compare lists, objects or null")
    return "number" if isinstance(item, int | float) and not isinstance(item, bool) else type(item).__name__
