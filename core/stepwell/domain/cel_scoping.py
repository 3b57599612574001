"""Which identifiers of a tree are free: neither a macro's own, nor a part of a function's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.domain.cel_ast import Call, Collection, Comprehension, Constant, Ident, Node, children
from stepwell.domain.cel_loops import ALIAS, MACROS
from stepwell.domain.errors import ExpressionError

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPES = frozenset(
    {"bool", "bytes", "double", "dyn", "google", "int", "list", "map", "null_type", "optional_type"}
    | {"string", "type", "uint"}
)
NAMESPACES = {
    "base64": {"encode", "decode"},
    "lists": {"range"},
    "optional": {"of", "ofNonZeroValue", "none", "unwrap"},
    "strings": {"quote"},
}


def free(tree: Node) -> Iterator[Ident]:
    """The identifiers that no macro declares, types among them."""
    return _free(tree, frozenset())


def refuse_odd_nodes(node: Node) -> None:
    """Raise ExpressionError for what parses, but is not supported."""
    match node:
        case Collection(message=kind) if kind:
            message = f"{kind}{{…}} is not supported; only maps {{…}} can be built"
            raise ExpressionError(message)
        case Comprehension(variable=variable, accumulator=accumulator):
            for name in (variable, accumulator):
                if name.startswith(ALIAS):
                    message = f"the name {name} is reserved; use one without {ALIAS}"
                    raise ExpressionError(message)
        case Call(function=function) if function.startswith(ALIAS):
            message = f"there is no function {function}()"
            raise ExpressionError(message)
        case Call(function="approvalUrl", target=None, args=args):
            if len(args) != 1 or not isinstance(args[0], Constant) or args[0].text is None:
                raise ExpressionError("approvalUrl() takes the name of an approval step, in quotes: approvalUrl('ask')")
    for child in children(node):
        refuse_odd_nodes(child)


def _free(node: Node, bound: frozenset[str]) -> Iterator[Ident]:
    """The identifiers that no macro declares."""
    match node:
        case Ident(name=name):
            if name not in bound:
                yield node
        case Call(target=Ident(name=name), function=function) if _is_namespaced(name, function) and name not in bound:
            for arg in node.args:
                yield from _free(arg, bound)
        case Comprehension():
            inner = bound | {node.accumulator}
            yield from _free(node.over, bound)
            yield from _free(node.initial, bound)
            yield from _free(node.condition, inner | {node.variable})
            yield from _free(node.step, inner | {node.variable})
            yield from _free(node.result, inner)
        case _:
            for child in children(node):
                yield from _free(child, bound)


def _is_namespaced(name: str, function: str) -> bool:
    return (name == "math" and function not in MACROS) or function in NAMESPACES.get(name, ())
