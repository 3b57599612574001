"""Refuses optionals where the library would have to convert one inside a list or map, for that ends the process.

In cel-expr-python 0.1.3 ``{'a': optional.of(1)}`` as a result, or as an argument of a function written in Python, is a
segmentation fault. So every expression is followed here, before it runs, for where its optionals may go: the depth of
a value is 0 where it surely holds none, 1 where it may be one, 2 where it may be a list of them, and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.domain.cel_ast import Call, Collection, Comprehension, Ident, Node, Select
from stepwell.domain.cel_loops import ALIAS
from stepwell.domain.errors import ExpressionError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAIN = frozenset(
    {"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "!_", "_&&_", "_||_", "@not_strictly_false", "hasValue"}
    | {"size", "join", "format", "string", "type", "contains", "none"}
)
_OPENS = frozenset({"value", "orValue"})
_MAKES = frozenset({"_?._", "_[?_]", "first", "last"})


def refuse_inside(tree: Node, converting: frozenset[str]) -> None:
    """Raise ExpressionError where a result, or an argument of the functions ``converting``, may hold an optional."""
    if _Depths(converting).of(tree, {}) > 1:
        raise ExpressionError(
            "its result may hold an optional; write .orValue(…), or {?'key': x} and [?x] to leave it out"
        )


class _Depths:
    def __init__(self, converting: frozenset[str]) -> None:
        self._converting = converting

    def of(self, node: Node, bound: Mapping[str, int]) -> int:
        match node:
            case Ident(name=name):
                return bound.get(name, 0)
            case Select(operand=operand, test=test):
                depth = self.of(operand, bound)
                return 0 if test else depth
            case Collection(parts=parts):
                return _wrapped(max((self.of(part, bound) for part in parts), default=0))
            case Comprehension():
                return self._loop(node, bound)
            case Call():
                return self._call(node, bound)
            case _:
                return 0

    def _call(self, node: Call, bound: Mapping[str, int]) -> int:
        args = [self.of(arg, bound) for arg in node.args]
        target = self.of(node.target, bound) if node.target is not None else 0
        depth = max([target, *args])
        function = node.function.removeprefix("optional.")  # so macros write what users write as a method
        if function in self._converting:
            if depth > 1:
                shown = "a macro" if function.startswith(ALIAS) else f"{function}()"
                message = f"{shown} cannot be given lists or maps with optionals; write .orValue(…)"
                raise ExpressionError(message)
            return 0
        if function in PLAIN:
            return 1 if function == "none" else 0
        if function in _OPENS:
            return max([target - 1, 0, *args])
        if function in {"of", "ofNonZeroValue"}:
            return depth + 1
        return max(depth, 1) if function in _MAKES else depth

    def _loop(self, node: Comprehension, bound: Mapping[str, int]) -> int:
        item = max(self.of(node.over, bound) - 1, 0)
        accumulated = self.of(node.initial, bound)
        inner = {**bound, node.accumulator: accumulated, node.variable: item}
        accumulated = max(accumulated, self.of(node.step, inner))
        self.of(node.condition, inner)
        return self.of(node.result, {**bound, node.accumulator: accumulated})


def _wrapped(depth: int) -> int:
    return depth + 1 if depth else 0
