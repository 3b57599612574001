"""Makes of a document what the API server would store: ordinary nulls dropped, defaults filled in.

Defaults stand only outside of lists, as in the CRDs: a default inside a list item would make tools that compare Git with
the cluster see a difference for ever.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from stepwell.domain.errors import Problem
from stepwell.domain.model_tree import default_of, fields, nested

if TYPE_CHECKING:
    from stepwell.domain.documents import JsonObject, JsonValue
    from stepwell.domain.model import Model

_LITERAL = frozenset({"spec.inputSchema", "spec.input"})
"""Free JSON that is no template."""


def as_stored(value: JsonObject, model: type[Model], problems: list[Problem], path: str = "") -> JsonObject:
    """The document as it would be stored; a null in a free-form map becomes a problem."""
    known = fields(model)
    stored: JsonObject = {}
    for key, child in value.items():
        below = f"{path}.{key}" if path else key
        if child is None or below == "status":
            continue
        inner = nested(known[key].annotation) if key in known else None
        stored[key] = _child(child, inner, problems, below, known=key in known)
    for key, field in known.items():
        if "[" not in path and key not in stored and (default := default_of(field)) is not None:
            stored[key] = copy.deepcopy(default)
    return stored


def _child(
    value: JsonValue, inner: type[Model] | None, problems: list[Problem], path: str, *, known: bool
) -> JsonValue:
    if inner is None:
        if known:
            template = path.startswith("spec.") and path not in _LITERAL
            _refuse_nulls(value, problems, path, 'write "{{ null }}"' if template else "leave the key out")
        return value
    if isinstance(value, dict):
        return as_stored(value, inner, problems, path)
    if isinstance(value, list):
        return [
            as_stored(item, inner, problems, f"{path}[{index}]") if isinstance(item, dict) else item
            for index, item in enumerate(value)
        ]
    return value


def _refuse_nulls(value: JsonValue, problems: list[Problem], path: str, instead: str) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_nulls(item, problems, f"{path}[{index}]", instead)
    elif isinstance(value, dict):
        for key, child in value.items():
            if child is None:
                problems.append(Problem(f"{path}.{key}", f"kubectl drops a null in a map; {instead}"))
            else:
                _refuse_nulls(child, problems, f"{path}.{key}", instead)
