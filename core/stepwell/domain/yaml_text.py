"""Reads manifests, YAML or JSON, into JSON values and remembers the line of every path.

It works on libyaml's events (Go's yaml.v2, which kubectl uses, is a port of libyaml) and never recurses deeper than the
limit, whatever the text holds. Every problem of a document is noted; only broken syntax ends the reading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from stepwell.domain import yaml_scalars
from stepwell.domain.documents import MAX_DEPTH
from stepwell.domain.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.domain.documents import JsonValue

MAX_TEXT = 16 << 20  # characters of one file
MAX_NODES = 200_000  # of one document, aliases expanded

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = {None, "!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))}
_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u[dD][89a-fA-F]|.)", re.DOTALL)


@dataclass(slots=True)
class Node:
    """A scalar (text), a list (nodes) or a map (pairs of nodes); aliases share one node."""

    line: int
    content: str | list[Node] | list[tuple[Node, Node]]
    kind: str
    plain: bool = False
    flow: bool = False


@dataclass(frozen=True, slots=True)
class Parsed:
    """One document: its value, its first line, and the line of every path."""

    value: JsonValue
    line: int
    lines: dict[str, int]


class _Broken(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.message)


def parse_text(text: str, problems: list[Problem]) -> list[Parsed]:
    """All documents of a text that are not empty; problems carry lines, not yet a file."""
    found: list[Parsed] = []
    try:
        for root in _documents(_prepared(text)):
            reader = _Reader(problems)
            value = reader.read(root)
            if value is not None:
                found.append(Parsed(value, root.line, reader.lines))
    except _Broken as broken:
        problems.append(broken.problem)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else None
        problems.append(Problem("", _syntax_message(exc), line))
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        problems.append(Problem("", f"a character is not allowed in YAML: {exc.reason}; write it as an escape", line))
    return found


def _prepared(text: str) -> str:
    """The text, if it is fit for libyaml; the surrogate pairs of JSON's escapes as the characters that they mean."""
    if len(text) > MAX_TEXT:
        raise _Broken(Problem("", f"the file has {len(text):,} characters; at most {MAX_TEXT:,} are allowed"))
    for bad, what in (("\0", "a NUL character"), (r"[\ud800-\udfff]", "a lone surrogate (half of a character)")):
        if match := re.search(bad, text):
            raise _Broken(Problem("", f"the file holds {what}, which is not text", _line(text, match.start())))
    if not text.lstrip().startswith("{"):
        return text

    def combine(match: re.Match[str]) -> str:
        high, low = match.groups()
        if high:
            return bytes.fromhex(high + low).decode("utf-16-be")
        if match.group().startswith(("\\ud", "\\uD")) and len(match.group()) > 2:
            message = "a text holds a lone surrogate (half of a character), which is not valid text"
            raise _Broken(Problem("", message, _line(text, match.start())))
        return match.group()

    return _ESCAPE.sub(combine, text)


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _syntax_message(exc: yaml.MarkedYAMLError) -> str:
    reason = ", ".join(part for part in (exc.context, exc.problem) if part)
    hint = ""
    if "escape" in reason:
        hint = "; half of a character (a lone surrogate such as \\ud800) is not text"
    elif "could not find expected ':'" in reason or "cannot start any token" in reason:
        hint = "; look for a missing quote, colon or space nearby"
    elif "mapping values are not allowed" in reason:
        hint = "; text that holds ': ' must be in quotes"
    return f"not valid YAML: {reason}{hint}"


def _line_of(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _documents(text: str) -> Iterator[Node]:
    """The root node of each document, built without recursion."""
    stack: list[tuple[Node, list[Node]]] = []
    anchors: dict[str, Node] = {}
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.DocumentStartEvent):
            anchors = {}
        elif isinstance(event, yaml.CollectionStartEvent):
            stack.append((_opened(event, anchors), []))
            if len(stack) > MAX_DEPTH:
                message = f"the document is nested deeper than {MAX_DEPTH} levels"
                raise _Broken(Problem("", message, _line_of(event)))
        elif isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            if isinstance(event, yaml.CollectionEndEvent):
                node = _closed(*stack.pop())
            elif isinstance(event, yaml.AliasEvent):
                node = _aliased(event, anchors)
            else:
                node = _opened(event, anchors)
            if stack:
                stack[-1][1].append(node)
            else:
                yield node


def _opened(event: Any, anchors: dict[str, Node]) -> Node:
    line = _line_of(event)
    if event.tag not in _TAGS:
        message = f"the YAML tag {event.tag} is not supported; take it away"
        raise _Broken(Problem("", message, line))
    if isinstance(event, yaml.ScalarEvent):
        node = Node(line, event.value, "scalar", plain=_is_plain(event))
    else:
        kind = "list" if isinstance(event, yaml.SequenceStartEvent) else "map"
        node = Node(line, [], kind, flow=bool(event.flow_style))
    if event.anchor is not None:
        anchors[event.anchor] = node
    return node


def _is_plain(event: yaml.ScalarEvent) -> bool:
    return bool(event.implicit[0]) or event.tag in _TAGS - {None, "!", "tag:yaml.org,2002:str"}


def _closed(node: Node, children: list[Node]) -> Node:
    node.content = children if node.kind == "list" else list(zip(children[::2], children[1::2], strict=True))
    return node


def _aliased(event: yaml.AliasEvent, anchors: dict[str, Node]) -> Node:
    if event.anchor not in anchors:
        message = f"the alias *{event.anchor} has no anchor &{event.anchor} before it"
        raise _Broken(Problem("", message, _line_of(event)))
    return anchors[event.anchor]


@dataclass(slots=True)
class _Reader:
    """Turns the nodes of one document into JSON values."""

    problems: list[Problem]
    lines: dict[str, int] = field(default_factory=dict)
    nodes: int = 0

    def read(self, node: Node, path: str = "", depth: int = 1) -> JsonValue:
        self.nodes += 1
        self.lines.setdefault(path, node.line)
        if self.nodes > MAX_NODES or depth > MAX_DEPTH + 1:
            what = f"has over {MAX_NODES:,} parts" if self.nodes > MAX_NODES else f"is deeper than {MAX_DEPTH} levels"
            raise _Broken(Problem(path[:200], f"the document {what} when its aliases are followed", node.line))
        content: Any = node.content
        if node.kind == "scalar":
            return self._scalar(node, path)
        if node.kind == "list":
            return [self.read(child, f"{path}[{index}]", depth + 1) for index, child in enumerate(content)]
        return self._map(content, path, depth)

    def _map(self, pairs: list[tuple[Node, Node]], path: str, depth: int) -> JsonValue:
        found: dict[str, JsonValue] = {}
        merged: dict[str, JsonValue] = {}
        for key_node, value_node in pairs:
            if key_node.content == "<<" and key_node.plain:
                self._merge(merged, value_node, path, depth)
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            below = f"{path}.{key}" if path else key
            if key in found:
                message = f"the key stands twice in one map (first in line {self.lines[below]}); keep one"
                self.problems.append(Problem(below, message, key_node.line))
            self.lines[below] = key_node.line
            found[key] = self.read(value_node, below, depth + 1)
        return {**merged, **found}

    def _merge(self, merged: dict[str, JsonValue], node: Node, path: str, depth: int) -> None:
        """``<<: *anchor``: keys of the map's own win, and of several maps the first."""
        value = self.read(node, path, depth)
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, dict):
                self.problems.append(Problem(path, "<< takes a map or a list of maps", node.line))
            else:
                merged.update({key: child for key, child in part.items() if key not in merged})

    def _key(self, node: Node, path: str) -> str | None:
        if node.kind != "scalar":
            braces = node.kind == "map" and node.flow
            message = "a key is text, not a map or a list"
            if braces:
                message = 'a template that begins with {{ must be in quotes, as in "{{ input.name }}"'
            self.problems.append(Problem(path, message, node.line))
            return None
        word = str(node.content)
        if node.plain and not isinstance(_resolved(word), str):
            kind = (
                "a boolean" if isinstance(_resolved(word), bool) else "null" if _resolved(word) is None else "a number"
            )
            message = f'the key {word or "(empty)"} is {kind} in YAML, not text; quote it: "{word}"'
            self.problems.append(Problem(path, message, node.line))
            return None
        return word if self._is_clean(word, node, path) else None

    def _scalar(self, node: Node, path: str) -> JsonValue:
        word = str(node.content)
        if not node.plain:
            self._is_clean(word, node, path)
            return word
        try:
            return yaml_scalars.resolve(word)
        except ValueError as exc:
            self.problems.append(Problem(path, str(exc), node.line))
            return 0

    def _is_clean(self, word: str, node: Node, path: str) -> bool:
        if "\0" not in word:
            return True
        self.problems.append(Problem(path, "the text holds a NUL character (\\0), which cannot be stored", node.line))
        return False


def _resolved(word: str) -> JsonValue:
    try:
        return yaml_scalars.resolve(word)
    except ValueError:
        return 0
