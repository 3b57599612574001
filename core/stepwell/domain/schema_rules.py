"""What Stepwell asks of an ``inputSchema`` beyond JSON Schema 2020-12: words that exist, references that stay inside.

A schema is a graph over its sub-schemas. References that lead back to themselves, or that unfold to many parts, would
let one workflow's schema occupy a gateway for minutes, so both are refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_PARTS = 10_000

_ONE = frozenset(
    """
    additionalProperties propertyNames items contains not if then else unevaluatedItems unevaluatedProperties
    contentSchema
    """.split()  # noqa: SIM905 - one word a line would fill the page
)
_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAP = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs"})
_DATA = frozenset(
    """
    type enum const default examples title description format required dependentRequired deprecated readOnly
    writeOnly multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern
    maxItems minItems uniqueItems maxContains minContains maxProperties minProperties contentEncoding
    contentMediaType $comment $ref $schema
    """.split()  # noqa: SIM905 - one word a line would fill the page
)
_KNOWN = _ONE | _LIST | _MAP | _DATA
_ELSEWHERE = frozenset({"$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "$recursiveRef"})
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"

Report = Callable[[str, str], None]
"""Takes the path below the schema (``.properties.age``) and a message."""


@dataclass(slots=True)
class Rules:
    """One reading of a schema; ``nodes`` maps the JSON pointer of every sub-schema to its path and value."""

    report: Report
    nodes: dict[str, tuple[str, Any]] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)

    def check(self, schema: Any) -> None:
        """Report everything that is wrong."""
        self._visit(schema, "", "")
        for pointer in list(self.nodes):
            self._check_reference(pointer)
        self._check_size()

    def _visit(self, node: Any, pointer: str, path: str) -> None:
        self.nodes[pointer] = (path, node)
        self.children[pointer] = []
        if not isinstance(node, dict):
            return  # true, false, or what the meta-schema refuses
        for word, value in node.items():
            self._check_word(word, value, f"{path}.{word}")
        for word, suffix, child in subschemas(node):
            below = f"{pointer}/{word}" + "".join(f"/{escape(part)}" for part in suffix)
            if word != "$defs":
                self.children[pointer].append(below)
            self._visit(child, below, f"{path}.{word}" + "".join(_shown(part) for part in suffix))

    def _check_word(self, word: str, value: Any, path: str) -> None:
        if word in _ELSEWHERE:
            self.report(path, f"{word} is not supported; refer to $defs of this schema with $ref: '#/$defs/…'")
        elif word == "$schema" and value != _DIALECT:
            self.report(path, f"the dialect is always JSON Schema 2020-12; take $schema away or write {_DIALECT}")
        elif word == "type":
            for name in value if isinstance(value, list) else [value]:
                if name not in _TYPES:
                    self.report(path, f"{name!r} is no type of JSON Schema{hint(str(name), _TYPES)}")
        elif word not in _KNOWN and not word.startswith("x-"):
            self.report(path, f"unknown keyword{hint(word, _KNOWN)}; keywords of your own begin with x-")

    def _check_reference(self, pointer: str) -> None:
        path, node = self.nodes[pointer]
        if not isinstance(node, dict) or "$ref" not in node:
            return
        target = node["$ref"]
        if not isinstance(target, str) or (target != "#" and not target.startswith("#/")):
            self.report(
                f"{path}.$ref", f"only references into this schema work, such as '#/$defs/name', not {target!r}"
            )
        elif target[1:] not in self.nodes:
            self.report(f"{path}.$ref", f"{target!r} points to nothing in this schema")
        else:
            self.children[pointer].append(target[1:])

    def _check_size(self) -> None:
        sizes: dict[str, int] = {}
        open_ones: set[str] = set()

        def size(pointer: str) -> int:
            if pointer in open_ones:
                self.report(
                    self.nodes[pointer][0], "a $ref leads back to this schema; recursive schemas are not supported"
                )
                return 1
            if pointer not in sizes:
                open_ones.add(pointer)
                sizes[pointer] = 1 + sum(map(size, self.children[pointer]))
                open_ones.discard(pointer)
            return sizes[pointer]

        try:
            total = size("")
        except RecursionError:
            self.report("", "the references of the schema are nested too deep; refer to each other less")
            return
        if total > MAX_PARTS:
            self.report("", f"the schema has {total:,} parts when its references are followed; at most {MAX_PARTS:,}")


def subschemas(node: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """The direct sub-schemas: keyword, the key or position below it, and the schema."""
    for word, value in node.items():
        if word in _ONE:
            yield word, (), value
        elif word in _LIST and isinstance(value, list):
            yield from ((word, (str(index),), child) for index, child in enumerate(value))
        elif word in _MAP and isinstance(value, dict):
            yield from ((word, (key,), child) for key, child in value.items())


def escape(part: str) -> str:
    """One part of a JSON pointer (RFC 6901)."""
    return part.replace("~", "~0").replace("/", "~1")


def hint(word: str, known: Any) -> str:
    """``; did you mean …?`` where one of the known words is near."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _shown(part: str) -> str:
    return f"[{part}]" if part.isdigit() else f".{part}"
