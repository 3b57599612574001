"""The syntax tree of a parsed expression, read from its serialised form.

The format is ``cel.expr.ParsedExpr`` (https://github.com/google/cel-spec/blob/master/proto/cel/expr/syntax.proto)
inside a ``google.protobuf.Any``. Only what Stepwell asks a tree about is read, so no protobuf library is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Fields: TypeAlias = dict[int, list["int | bytes"]]


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal: a string's text, an integer's number, and its size in bytes."""

    text: str | None = None
    number: int | None = None
    size: int = 8


@dataclass(frozen=True, slots=True)
class Ident:
    """A name; ``position`` counts characters of the text, -1 for what a macro made."""

    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Select:
    """``operand.field``, with ``test`` for ``has(operand.field)``."""

    operand: Node
    field: str
    test: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A function, method or operator; operators have names such as ``_+_``."""

    function: str
    target: Node | None
    args: tuple[Node, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Collection:
    """A list, a map (keys and values in turn) or, with ``message``, a message."""

    parts: tuple[Node, ...]
    is_map: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Comprehension:
    """What the macros ``map``, ``filter``, ``all``, ``exists``, ``bind``, ``optMap``… become."""

    variable: str
    over: Node
    accumulator: str
    initial: Node
    condition: Node
    step: Node
    result: Node
    position: int


EMPTY_LIST = Collection((), is_map=False)

Node: TypeAlias = "Constant | Ident | Select | Call | Collection | Comprehension"


def read(serialized: bytes) -> Node:
    """The tree of what the library's ``Expression.serialize()`` returned for an expression that is parsed only."""
    parsed = _fields(_bytes(_fields(serialized), 2))
    positions = dict(_positions(_bytes(parsed, 3)))
    return _Reader(positions).node(_bytes(parsed, 2))


def children(node: Node) -> tuple[Node, ...]:
    """The nodes right below this one."""
    match node:
        case Select(operand=operand):
            return (operand,)
        case Call(target=target, args=args):
            return args if target is None else (target, *args)
        case Collection(parts=parts):
            return parts
        case Comprehension():
            return (node.over, node.initial, node.condition, node.step, node.result)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(children(current))


class _Reader:
    def __init__(self, positions: dict[int, int]) -> None:
        self._positions = positions

    def node(self, data: bytes) -> Node:
        fields = _fields(data)
        position = self._positions.get(_int(fields, 2), -1)
        if 4 in fields:
            return Ident(_text(_fields(_bytes(fields, 4)), 1), position)
        if 5 in fields:
            select = _fields(_bytes(fields, 5))
            return Select(self.node(_bytes(select, 1)), _text(select, 2), bool(_int(select, 3)))
        if 6 in fields:
            return self._call(_fields(_bytes(fields, 6)), position)
        if 7 in fields:
            return self._list(_fields(_bytes(fields, 7)))
        if 8 in fields:
            return self._struct(_fields(_bytes(fields, 8)))
        if 9 in fields:
            return self._comprehension(_fields(_bytes(fields, 9)), position)
        return _constant(_fields(_bytes(fields, 3)))

    def _nodes(self, fields: Fields, number: int) -> tuple[Node, ...]:
        return tuple(self.node(part) for part in fields.get(number, []) if isinstance(part, bytes))

    def _call(self, fields: Fields, position: int) -> Call:
        target = self.node(_bytes(fields, 1)) if 1 in fields else None
        return Call(_text(fields, 2), target, self._nodes(fields, 3), position)

    def _list(self, fields: Fields) -> Collection:
        optional = set(_packed(_bytes(fields, 2)))
        parts = self._nodes(fields, 1)
        return Collection(tuple(_value(p) if n in optional else p for n, p in enumerate(parts)), is_map=False)

    def _struct(self, fields: Fields) -> Collection:
        parts: list[Node] = []
        for entry in fields.get(2, []):
            if isinstance(entry, bytes):
                inner = _fields(entry)
                values = self._nodes(inner, 4)
                parts += (*self._nodes(inner, 3), *(map(_value, values) if _int(inner, 5) else values))
        return Collection(tuple(parts), is_map=True, message=_text(fields, 1))

    def _comprehension(self, fields: Fields, position: int) -> Comprehension:
        over, initial, condition, step, result = (self.node(_bytes(fields, number)) for number in (2, 4, 5, 6, 7))
        return Comprehension(_text(fields, 1), over, _text(fields, 3), initial, condition, step, result, position)


def _value(optional: Node) -> Node:
    """What ``[?x]`` and ``{?'key': x}`` put in: the value of x, where it has one."""
    return Call("value", optional, (), -1)


def _packed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        number, at = _varint(data, at)
        yield number


def _constant(fields: Fields) -> Constant:
    if 6 in fields:
        text = _text(fields, 6)
        return Constant(text=text, size=len(text))
    if 7 in fields:
        return Constant(size=len(_bytes(fields, 7)))
    return Constant(number=_int(fields, 3) if 3 in fields else None)


def _positions(source_info: bytes) -> Iterator[tuple[int, int]]:
    for entry in _fields(source_info).get(4, []):
        if isinstance(entry, bytes):
            pair = _fields(entry)
            yield _int(pair, 1), _int(pair, 2)


def _fields(data: bytes) -> Fields:
    """The fields of one message by number: varints as int, everything else as bytes."""
    fields: Fields = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: int | bytes
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
            case 2:
                length, at = _varint(data, at)
                value, at = data[at : at + length], at + length
            case wire:
                width = {1: 8, 5: 4}[wire]
                value, at = data[at : at + width], at + width
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _bytes(fields: Fields, number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    return value if isinstance(value, bytes) else b""


def _int(fields: Fields, number: int) -> int:
    value = fields.get(number, [0])[-1]
    return value if isinstance(value, int) else 0


def _text(fields: Fields, number: int) -> str:
    return _bytes(fields, number).decode()
