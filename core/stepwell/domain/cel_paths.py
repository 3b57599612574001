"""Plain paths such as ``input.user.email``: read in Python, without the library.

The library converts a whole variable before it reads one field of it (1.2 ms for 80 kB), so every plain path inside an
expression is looked up here, and only its value is handed over. A path that leads nowhere is not handed over, and the
library's error about it, if evaluation gets that far, is replaced by ``explain``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from stepwell.domain.documents import JsonValue

Variables: TypeAlias = Mapping[str, JsonValue]
Finder: TypeAlias = Callable[[Variables], JsonValue]


class Use(Enum):
    """What an expression does with the value at a path."""

    VALUE = "value"
    FIELD = "field"
    """Asks for one field that may be absent: ``has(x.a)``, ``x.?a``."""
    EACH = "each"
    """Runs a macro such as ``map`` over it."""


@dataclass(frozen=True, slots=True)
class Path:
    """A variable and the fields and indices below it. ``bare``: ``x`` was written for ``input.x``."""

    root: str
    parts: tuple[str | int, ...] = ()
    bare: bool = False

    def __str__(self) -> str:
        steps = (self.root, *self.parts)
        shown = steps[1:] if self.bare else steps
        return str(shown[0]) + "".join(map(_suffix, shown[1:]))

    def finder(self) -> Finder:
        """Reads the value; KeyError, IndexError or TypeError where there is none."""
        root, parts = self.root, self.parts
        if not parts:
            return lambda variables: variables[root]
        if len(parts) == 1 and isinstance(parts[0], str):
            return _pair(root, parts[0])
        steps = (root, *parts)
        if any(isinstance(step, int) for step in steps):
            return lambda variables: _indexed(variables, steps)
        return lambda variables: _fields(variables, steps)

    def explain(self, variables: Variables) -> str:
        """Why there is no value."""
        if self.root not in variables:
            return f"there is no {self.root} here"
        value = variables[self.root]
        for count, part in enumerate(self.parts):
            where = "the step's input" if self.bare and not count else str(Path(self.root, self.parts[:count]))
            if isinstance(value, Mapping) and isinstance(part, str):
                if part not in value:
                    return f'there is no key "{part}" in {where}'
                value = value[part]
            elif isinstance(value, list) and isinstance(part, int):
                if part >= len(value):
                    return f"there is no item [{part}] in {where}, which has {len(value)}"
                value = value[part]
            else:
                return f"{where} is {kind_of(value)}, so it has no {_suffix(part)}"
        return f"{self} has no value"


@dataclass(frozen=True, slots=True)
class Binding:
    """What stands for a path in the expression that the library evaluates."""

    path: Path
    use: Use = Use.VALUE
    field: str = ""

    def finder(self) -> Finder:
        """Reads what is handed to the library; the errors of ``Path.finder``."""
        find = self.path.finder()
        if self.use is Use.FIELD:
            return lambda variables: _only(find(variables), self.field)
        if self.use is Use.EACH:
            return lambda variables: _each(find(variables))
        return find


def kind_of(value: object) -> str:
    """The JSON type of a value in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an object" if isinstance(value, Mapping) else "a list"


def _suffix(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if part.isidentifier() else f"['{part}']"


def _pair(root: str, field: str) -> Finder:
    def find(variables: Variables) -> JsonValue:
        return variables[root][field]  # type: ignore[index, call-overload] # a wrong type is a TypeError

    return find


def _fields(variables: Variables, steps: tuple[str | int, ...]) -> JsonValue:
    value: object = variables
    for step in steps:
        value = value[step]  # type: ignore[index] # a wrong type is a TypeError
    return value  # type: ignore[return-value]


def _indexed(variables: Variables, steps: tuple[str | int, ...]) -> JsonValue:
    value: object = variables
    for step in steps:
        if step.__class__ is int and not isinstance(value, list):  # "abc"[0] is no error in Python
            raise TypeError
        value = value[step]  # type: ignore[index]
    return value  # type: ignore[return-value]


def _only(value: JsonValue, field: str) -> JsonValue:
    if not isinstance(value, Mapping):
        return value
    return {field: value[field]} if field in value else {}


def _each(value: JsonValue) -> JsonValue:
    """The library visits the keys of a map in an order that differs from process to process."""
    return [*sorted(value)] if isinstance(value, Mapping) else value
