"""Templates: JSON values in whose strings ``{{ expr }}`` stands for a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import orjson

from stepwell.domain import placeholders
from stepwell.domain.documents import MAX_BYTES, MAX_DEPTH, JsonValue
from stepwell.domain.errors import EvaluationError, ExpressionError
from stepwell.domain.expressions import Context, Expression, Scope, compile_expression
from stepwell.domain.placeholders import Part, Placeholder, PlaceholderError

Report = Callable[[str, str], None]
"""Takes the path below the template (``.email``, ``.items[2]``, "" for itself) and the message of a problem."""

Quote: TypeAlias = Callable[[str], str]
Render: TypeAlias = "Callable[[Context, Budget], JsonValue]"

SMALL = 64  # characters of a text that the budget does not count


class Budget:
    """The bytes that the values of one rendering may still take."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_BYTES

    def spend(self, count: int) -> None:
        """Raises EvaluationError where nothing is left."""
        self.left -= count
        if self.left < 0:
            message = f"the template's result is larger than {MAX_BYTES:,} bytes"
            raise EvaluationError(message)


class Template:
    """A compiled JSON template. ``variables`` are the scope's variables that it reads.

    Parts of the result may be parts of the context or of the template, so it must not be changed in place.
    """

    __slots__ = ("_render", "_value", "variables")

    def __init__(self, value: JsonValue, render: Render | None, variables: frozenset[str]) -> None:
        self._value = value
        self._render = render
        self.variables = variables

    def render(self, context: Context) -> JsonValue:
        """The value. Raises EvaluationError."""
        if self._render is None:
            return self._value
        return self._render(context, Budget())


class TextTemplate:
    """A compiled template whose result is text, such as a URL or a header."""

    __slots__ = ("_parts", "variables")

    def __init__(self, parts: tuple[str | Expression, ...], variables: frozenset[str]) -> None:
        self._parts = parts
        self.variables = variables

    def render(self, context: Context, quote: Quote | None = None) -> str:
        """The text; every interpolated value, not the literal text, goes through ``quote``."""
        return _interpolate(self._parts, context, Budget(), quote)


def compile_template(value: JsonValue, scope: Scope, report: Report) -> Template:
    """Compile a JSON template; every problem is reported, and the template is then not to be rendered."""
    compiler = _Compiler(scope, report)
    render = compiler.node(value, "", 1)
    return Template(value, render, frozenset(compiler.variables))


def compile_text(text: str, scope: Scope, report: Report) -> TextTemplate:
    """Compile a text template; every problem is reported, and the template is then not to be rendered."""
    compiler = _Compiler(scope, report)
    parts = compiler.compiled(compiler.split(text, ""), "")
    return TextTemplate(parts, frozenset(compiler.variables))


class _Compiler:
    """Turns a value into a closure that renders it, None for what holds no expression."""

    def __init__(self, scope: Scope, report: Report) -> None:
        self._scope = scope
        self._report = report
        self.variables: set[str] = set()

    def node(self, value: JsonValue, path: str, depth: int) -> Render | None:
        if isinstance(value, str):
            return self._string(value, path, depth)
        if not isinstance(value, dict | list):
            return None
        if depth > MAX_DEPTH:
            self._report(path, f"the template is nested deeper than {MAX_DEPTH} levels")
            return None
        return self._object(value, path, depth) if isinstance(value, dict) else self._list(value, path, depth)

    def split(self, text: str, path: str) -> list[Part]:
        try:
            return placeholders.split(text)
        except PlaceholderError as exc:
            self._report(path, str(exc))
            return []

    def compiled(self, parts: list[Part], path: str) -> tuple[str | Expression, ...]:
        found = (part if isinstance(part, str) else self._expression(part, path) for part in parts)
        return tuple(part for part in found if part is not None)

    def _expression(self, part: Placeholder, path: str) -> Expression | None:
        try:
            expression = compile_expression(part.expression, self._scope)
        except ExpressionError as exc:
            self._report(path, str(exc))
            return None
        self.variables |= expression.variables
        return expression

    def _string(self, text: str, path: str, depth: int) -> Render | None:
        if "{{" not in text:
            return None
        parts = self.split(text, path)
        only = placeholders.whole(parts)
        if only is not None:
            expression = self._expression(only, path)
            return _whole(expression, depth) if expression else None
        compiled = self.compiled(parts, path)
        return lambda context, budget: _interpolate(compiled, context, budget, None)

    def _object(self, value: dict[str, JsonValue], path: str, depth: int) -> Render | None:
        changing: list[tuple[str, Render]] = []
        for key, child in value.items():
            below = f"{path}.{key}"
            if "{{" in key:
                self._report(below, "the names of fields are literal; {{ }} is only for values")
            if render := self.node(child, below, depth + 1):
                changing.append((key, render))
        return _object(value, tuple(changing)) if changing else None

    def _list(self, value: list[JsonValue], path: str, depth: int) -> Render | None:
        changing = [
            (index, render)
            for index, child in enumerate(value)
            if (render := self.node(child, f"{path}[{index}]", depth + 1))
        ]
        return _list(value, tuple(changing)) if changing else None


def _object(value: dict[str, JsonValue], changing: tuple[tuple[str, Render], ...]) -> Render:
    def render(context: Context, budget: Budget) -> JsonValue:
        result = value.copy()
        for key, child in changing:
            result[key] = child(context, budget)
        return result

    return render


def _list(value: list[JsonValue], changing: tuple[tuple[int, Render], ...]) -> Render:
    def render(context: Context, budget: Budget) -> JsonValue:
        result = value.copy()
        for index, child in changing:
            result[index] = child(context, budget)
        return result

    return render


def _whole(expression: Expression, depth: int) -> Render:
    evaluate = expression.evaluate

    def render(context: Context, budget: Budget) -> JsonValue:
        value = evaluate(context)
        if value.__class__ is str:
            if len(value) > SMALL:
                budget.spend(len(value))
        elif isinstance(value, dict | list):
            _spend_on(value, depth, budget, expression.text)
        return value

    return render


def _spend_on(value: JsonValue, depth: int, budget: Budget, text: str) -> None:
    data = orjson.dumps(value)
    budget.spend(len(data))
    if data.count(b"[") + data.count(b"{") + depth > MAX_DEPTH and _depth(value) + depth - 1 > MAX_DEPTH:
        message = f"{text}: its place and its value together are nested deeper than {MAX_DEPTH} levels"
        raise EvaluationError(message)


def _depth(value: JsonValue) -> int:
    deepest = 0
    stack = [(value, 1)]
    while stack:
        node, depth = stack.pop()
        if isinstance(node, dict | list):
            deepest = max(deepest, depth)
            stack.extend((child, depth + 1) for child in (node.values() if isinstance(node, dict) else node))
    return deepest


def _interpolate(parts: tuple[str | Expression, ...], context: Context, budget: Budget, quote: Quote | None) -> str:
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        text = _as_text(part, context)
        budget.spend(len(text))
        texts.append(text if quote is None else quote(text))
    return "".join(texts)


def _as_text(expression: Expression, context: Context) -> str:
    value = expression.evaluate(context)
    if isinstance(value, str):
        return value
    if value is None:
        message = (
            f"{expression.text}: null has no text; write ({expression.text}) == null ? '' : …, "
            "or .orValue('') for a field that may be absent"
        )
        raise EvaluationError(message)
    return orjson.dumps(value).decode()
