"""Says pydantic's findings in the words of a manifest: the path, what was found, and what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.domain.errors import Problem
from stepwell.domain.model_tree import fields, model_at
from stepwell.domain.schema_rules import hint

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from stepwell.domain.model import Model

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "float_type": "a number",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
}


def problems_of(error: ValidationError, model: type[Model], path: str = "") -> list[Problem]:
    """One problem for each finding that is not a mere consequence of another."""
    details = error.errors(include_url=False)
    parents = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    return [
        Problem(path_of(detail["loc"], path), _message(detail, model))
        for detail in details
        if not (detail["type"] == "too_short" and detail["loc"] in parents)
    ]


def path_of(location: tuple[str | int, ...], path: str = "") -> str:
    """``("steps", 0, "name")`` as ``steps[0].name``."""
    for part in location:
        if part == "[key]":
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def shown(value: object) -> str:
    """A value as a message names it."""
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r}…"
    return {list: "a list", dict: "a map", type(None): "nothing"}.get(type(value), "something else")


def _message(detail: ErrorDetails, model: type[Model]) -> str:
    kind, found, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind in _TYPES:
        return _wrong_type(_TYPES[kind], found)
    if kind == "extra_forbidden":
        return _unknown(str(detail["loc"][-1]), model_at(model, detail["loc"][:-1]))
    say = _MESSAGES.get(kind)
    return say(found, context) if say else detail["msg"]


def _wrong_type(expected: str, found: object) -> str:
    advice = ""
    if expected == "text" and isinstance(found, bool):
        advice = "; YAML reads on, off, yes, no, y and n so: put the word in quotes"
    elif expected == "text" and isinstance(found, int | float):
        advice = "; put it in quotes"
    return f"must be {expected}, not {shown(found)}{advice}"


def _unknown(name: str, model: type[Model] | None) -> str:
    known = sorted(fields(model)) if model else []
    advice = hint(name, known) or f"; there are {', '.join(known)}"
    return f"unknown field {name!r}{advice}"


def _choice(found: Any, context: dict[str, Any]) -> str:
    words = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
    near = next((word for word in words if isinstance(found, str) and word.lower() == found.lower()), None)
    advice = f"; did you mean {near}?" if near else hint(str(found), words)
    return f"must be one of {', '.join(words)}, not {shown(found)}{advice}"


def _length(found: Any, context: dict[str, Any]) -> str:
    bound = f"at most {context['max_length']}" if "max_length" in context else f"at least {context['min_length']}"
    what = "characters" if isinstance(found, str) else "entries"
    return f"has {len(found):,} {what}; {bound} are allowed" if "max_length" in context else f"needs {bound} {what}"


def _bound(word: str, key: str) -> Callable[[Any, dict[str, Any]], str]:
    return lambda found, context: f"must be {word} {context[key]:g}, not {found}"


_MESSAGES: dict[str, Callable[[Any, dict[str, Any]], str]] = {
    "missing": lambda _found, _context: "is required, but not set",
    "literal_error": _choice,
    "string_pattern_mismatch": lambda found, context: f"{shown(found)} does not match {context['pattern']}",
    "string_too_long": _length,
    "string_too_short": _length,
    "too_long": _length,
    "too_short": _length,
    "greater_than_equal": _bound("at least", "ge"),
    "less_than_equal": _bound("at most", "le"),
}
