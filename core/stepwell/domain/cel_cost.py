"""An upper bound of the memory and the time that an expression takes, known before it is evaluated.

The library bounds iterations (10,000) and nesting, not memory: ``s.replace('a', s)`` makes 1 GB of 32 kB, and ``map``
copies its result for every item, so that 10,000 items take 1.6 GB and 5 s. An expression is a sum of products of the
sizes of what it reads; here it is computed over sizes instead of values. Sizes are bytes of JSON.

Why a loop's body is computed only twice: such a body f is convex, so over items whose sizes add up to n, the sum of
f(item) is at most ``count * f(0) + f(n) - f(0)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import orjson

from stepwell.domain.cel_ast import Call, Collection, Comprehension, Constant, Ident, Node, Select
from stepwell.domain.cel_chunks import CONCAT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LIMIT = 64 << 20
DOCUMENT = 1 << 20  # the largest value that an expression reads
ITERATIONS = 10_000  # the library's own budget for one evaluation
APPEND = 16  # bytes copied for every pair of items of a list that a macro builds
MAX_RANGE = 2000  # numbers that lists.range() makes
COMPARE = 4  # the same for an item that is compared, as `in` does
STEPS = (DOCUMENT, 1 << 17, 1 << 15, 1 << 13, 1 << 11, 1 << 9)

_PREDICATES = frozenset(
    {"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "!_", "_&&_", "_||_", "contains", "startsWith", "endsWith"}
    | {"matches", "size", "indexOf", "lastIndexOf", "@not_strictly_false", "int", "double", "uint", "bool", "type"}
)


class Size(NamedTuple):
    """Of a value: its bytes, its longest list or object, and the items of all of them together."""

    bytes: int = 8
    longest: int = 0
    items: int = 0
    text: bool = False
    """A string of the context: the library copies it whenever it is read."""


Sizes: TypeAlias = "Mapping[str, Size]"
_NOTHING = Size(0)
_INSIDE = "@inside"  # among sizes: this is the body of a loop, computed over all of the loop's items at once


def harmless(tree: Node, aliases: list[str]) -> int:
    """The bytes that each value read may have without a closer look; all values are documents of at most 1 MiB."""
    for size in STEPS:
        items = min(size // 2, ITERATIONS)
        if work(tree, dict.fromkeys(aliases, Size(size, items, items, text=True))) <= LIMIT:
            return size
    return 0


def measure(value: object) -> Size:
    """The size of a JSON value."""
    if isinstance(value, str):
        return Size(len(value), text=True)
    if not isinstance(value, list | dict):
        return Size()
    longest = items = 0
    stack = [value]
    while stack:
        node = stack.pop()
        items += len(node)
        longest = max(longest, len(node))
        inner = node.values() if isinstance(node, dict) else node
        stack.extend(child for child in inner if child.__class__ in {list, dict})
    return Size(len(orjson.dumps(value)), longest, items)


def work(tree: Node, sizes: Sizes) -> int:
    """The bytes that evaluation allocates or goes through, at most."""
    return _cost(tree, sizes)[1]


def _cost(node: Node, sizes: Sizes) -> tuple[Size, int]:
    match node:
        case Constant(size=count):
            return Size(count), 0
        case Ident(name=name):
            size = sizes.get(name, Size())
            return size, size.bytes if size.text else 0
        case Select(operand=operand, test=test):
            inner, spent = _cost(operand, sizes)
            return (Size() if test else inner._replace(text=False)), spent
        case Call():
            return _call(node, sizes)
        case Collection(parts=parts):
            costs = [_cost(part, sizes) for part in parts]
            size = _sum([size for size, _ in costs])
            size = size._replace(longest=max(size.longest, len(parts)), items=size.items + len(parts))
            return size, sum(spent for _, spent in costs)
        case Comprehension():
            return _loop(node, sizes)


def _sum(parts: list[Size]) -> Size:
    return Size(
        8 + sum(size.bytes for size in parts),
        max((size.longest for size in parts), default=0),
        sum(size.items for size in parts),
    )


def _call(node: Call, sizes: Sizes) -> tuple[Size, int]:
    costs = [_cost(part, sizes) for part in (node.args if node.target is None else (node.target, *node.args))]
    spent = sum(spent for _, spent in costs)
    parts = [size for size, _ in costs]
    whole = _sum(parts)
    if node.function in _READS:
        return whole, spent
    if node.function in _PREDICATES:
        return Size(), spent + whole.bytes + COMPARE * whole.longest
    if node.function == "range":
        whole = _range(node.args)
    elif make := _MAKES.get(node.function):
        whole = make(parts, whole)
    return whole, spent + 2 * whole.bytes + APPEND * whole.items


def _concatenated(parts: list[Size], whole: Size) -> Size:
    return whole._replace(longest=sum(size.longest for size in parts))


def _replaced(parts: list[Size], whole: Size) -> Size:
    text, new = parts[0].bytes, parts[2].bytes if len(parts) > 2 else 0
    return Size(whole.bytes + text + (text + 1) * new)


def _joined(parts: list[Size], whole: Size) -> Size:
    return Size(whole.bytes + whole.longest * (parts[1].bytes if len(parts) > 1 else 0))


_READS = frozenset({"_[_]", "_?._", "_[?_]", "_?_:_", "value", "orValue", "or", "hasValue", "of", "none"})
_MAKES: dict[str, Callable[[list[Size], Size], Size]] = {
    "_+_": _concatenated,
    CONCAT: lambda _, whole: whole._replace(longest=whole.items),
    "flatten": lambda _, whole: whole._replace(longest=whole.items),
    "replace": _replaced,
    "join": _joined,
    "format": lambda parts, whole: Size(whole.bytes + 200 * parts[0].bytes),  # %.1000f
    "split": lambda _, whole: Size(whole.bytes, whole.bytes, whole.bytes),
    "json": lambda _, whole: Size(whole.bytes, whole.bytes // 2, whole.bytes // 2),
    "toJson": lambda _, whole: Size(6 * whole.bytes),
    "quote": lambda _, whole: Size(6 * whole.bytes),
    "urlencode": lambda _, whole: Size(9 * whole.bytes),
}


def _range(args: tuple[Node, ...]) -> Size:
    given = args[0].number if args and isinstance(args[0], Constant) else None
    count = MAX_RANGE if given is None else min(given, MAX_RANGE)
    return Size(8 * count, count, count)


def _loop(node: Comprehension, sizes: Sizes) -> tuple[Size, int]:
    over, spent = _cost(node.over, sizes)
    initial, started = _cost(node.initial, sizes)
    spent += started
    # inside another loop, all the lists that this one runs over have at most so many items together
    count = min(max(over.items, over.longest) if _INSIDE in sizes else over.longest, ITERATIONS)
    if not count:  # cel.bind() and optMap() loop over an empty list
        size, ended = _cost(node.result, {**sizes, node.accumulator: initial})
        return size, spent + ended
    inner = {**sizes, node.accumulator: _NOTHING}
    least = _body(node, {**inner, node.variable: _NOTHING})
    most = _body(node, {**inner, node.variable: over, _INSIDE: over})
    made = count * least[0].bytes + most[0].bytes - least[0].bytes
    items = count * least[0].items + most[0].items - least[0].items
    spent += count * least[1] + most[1] - least[1]
    if not isinstance(node.initial, Collection):
        return Size(), spent
    longest = min(over.longest, ITERATIONS)
    result = Size(made + APPEND * count, max(longest, most[0].longest), items + count)
    return result, spent + APPEND * count * longest


def _body(node: Comprehension, sizes: Sizes) -> tuple[Size, int]:
    size, spent = _cost(node.step, sizes)
    return size, spent + _cost(node.condition, sizes)[1]
