"""What a JSON value may not hold to be a manifest, where it did not come from a text of ours but over the API server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.domain.documents import MAX_DEPTH
from stepwell.domain.errors import Problem
from stepwell.domain.yaml_scalars import EXACT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.domain.documents import JsonValue

_EXPONENT = 1e21  # from here on a number is written with an exponent, so that nobody takes it for exact


def value_problems(value: JsonValue, path: str) -> Iterator[Problem]:
    """Every problem below ``path``: NUL characters, integers beyond 2^53, and (one, at the end) too deep a nesting."""
    level: list[tuple[str, JsonValue]] = [(path, value)]
    for _ in range(MAX_DEPTH):
        inner: list[tuple[str, JsonValue]] = []
        for place, node in level:
            if isinstance(node, dict):
                yield from (Problem(place, _NUL) for key in node if "\0" in key)
                inner += ((f"{place}.{key}", child) for key, child in node.items())
            elif isinstance(node, list):
                inner += ((f"{place}[{index}]", child) for index, child in enumerate(node))
            elif message := _scalar(node):
                yield Problem(place, message)
        if not inner:
            return
        level = inner
    yield Problem(level[0][0][:200], f"the document is nested deeper than {MAX_DEPTH} levels")


_NUL = "the text holds a NUL character (\\0), which cannot be stored"


def _scalar(node: JsonValue) -> str | None:
    if isinstance(node, str):
        return _NUL if "\0" in node else None
    if isinstance(node, int | float) and EXACT < abs(node) < _EXPONENT and node == int(node):
        return f"the integer {int(node)} is beyond ±2^53, where JSON readers lose digits; put it in quotes"
    return None
