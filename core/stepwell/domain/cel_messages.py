"""The library's error messages in words that a user of Stepwell can act on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_STATUS = re.compile(r"^[A-Z_]+: ")
_TRAILER = re.compile(r" \[[A-Z_]+\]$")
_PROBLEM = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_UNEXPECTED = re.compile(r"Syntax error: (?:mismatched|extraneous) input '(.*?)' expecting .*")
_NO_WAY = re.compile(r"Syntax error: no viable alternative at input '(.*)'")
_UNREADABLE = re.compile(r"Syntax error: token recognition error at: '(.*)'")
_UNKNOWN = re.compile(r"undeclared reference to '(.*?)'.*")
_NO_OVERLOAD = re.compile(r"found no matching overload for '(.*?)' applied to '(.*)'")
_NO_OVERLOAD_NOW = re.compile(r"No matching overloads found : (.*)")
_OPERATOR = re.compile(r"^_(.{1,2})_$")
_TYPES = {"int64": "int", "uint64": "uint", "null_type": "null", "dyn": "any", "*opaque*": "optional"}

_ABSENCE = re.compile(
    r'No value with name ".*?" found|Key not found in map|Index error: index=|Applying SELECT to non-message type'
)
_NOT_ITERABLE = "a macro such as map() or filter() runs over something that is neither a list nor an object"
_FIXED = {
    "Applying SELECT to non-message type": "a field is read of something that is not an object",
    "_sw_each": _NOT_ITERABLE,
    "<iter_range>": _NOT_ITERABLE,
    "<jump_condition>": "a condition is not a boolean",
    "Non-CEL value type": "a function of Stepwell for lists cannot be given timestamps, durations or types",
    "Iteration budget exceeded": "it takes more than 10,000 iterations",
    "optional.none() dereference": "the value is absent; write .orValue(…) for what stands in its place",
    "recursion": "it is nested too deeply, or chains more than 32 operators; use parentheses or several steps",
}


def of_compilation(raw: str) -> list[tuple[int | None, str]]:
    """The problems of a text that does not compile, each with its column, from 1, where it is known."""
    for key in ("recursion depth", "recursion limit"):
        if key in raw:
            return [(None, _FIXED["recursion"])]
    found = [(int(column), _compile_message(text)) for _, column, text in _PROBLEM.findall(raw)]
    return [(column if column > 0 else None, text) for column, text in found] or [(None, _strip(raw))]


def is_absence(raw: str) -> bool:
    """Whether an evaluation failed for want of a key, an item or a field."""
    return _ABSENCE.search(raw) is not None


def of_evaluation(raw: str, missing: Callable[[str], str]) -> str:
    """Why an evaluation failed; ``missing`` explains an alias that has no value."""
    text = _strip(raw)
    if match := re.search(r'No value with name "(.*?)" found', text):
        return missing(match.group(1))
    if match := re.search(r"Key not found in map : (.*)", text):
        return f"there is no key {match.group(1)}"
    if match := re.search(r"Index error: index=(-?\d+) size=(\d+)", text):
        return f"there is no item [{match.group(1)}] in a list of {match.group(2)}"
    for key, fixed in _FIXED.items():
        if key in text:
            return fixed
    if match := _NO_OVERLOAD_NOW.search(text):
        return f"there is no {_call(match.group(1))}"
    return text.replace("*opaque*", "optional")


def _strip(raw: str) -> str:
    return _TRAILER.sub("", _STATUS.sub("", raw)).strip()


def _compile_message(text: str) -> str:
    if (match := _UNEXPECTED.fullmatch(text)) or (match := _NO_WAY.fullmatch(text)):
        what = match.group(1)
        return "it ends too early" if what == "<EOF>" else f"unexpected {what}"
    if match := _UNREADABLE.fullmatch(text):
        return f"{match.group(1)} is not CEL"
    if match := _UNKNOWN.fullmatch(text):
        return f"there is no function {match.group(1)}()"
    if "_sw_each" in text:
        return _NOT_ITERABLE
    if match := _NO_OVERLOAD.fullmatch(text):
        return f"there is no {_signature(match.group(1), _arguments(match.group(2)))}"
    if text.startswith("reserved identifier: "):
        return f"{text[21:]} is a reserved word of CEL; write input.{text[21:]}"
    return text.replace("*opaque*", "optional")


def _call(text: str) -> str:
    """``f(int64)`` or ``(list).f(int64)``, with names of types that users know."""
    match = re.fullmatch(r"(?:\((.*?)\)\.)?(.*?)\((.*)\)", text)
    if not match:
        return text
    target, function, given = match.groups()
    signature = _signature(function, given.split(", ") if given else [])
    return f"{_TYPES.get(target, target)}.{signature}" if target else signature


def _arguments(text: str) -> list[str]:
    return text.removeprefix("(").removesuffix(")").split(", ")


def _signature(function: str, types: Iterable[str]) -> str:
    named = [_TYPES.get(kind, kind) for kind in types]
    if (match := _OPERATOR.match(function)) and len(named) == 2:
        hint = "; convert one of them, as in double(x) or string(x)" if len(set(named)) == 2 else ""
        return f"{named[0]} {match.group(1)} {named[1]}" + hint
    return f"{function}({', '.join(named)})"
