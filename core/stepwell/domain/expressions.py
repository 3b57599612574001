"""Expressions: CEL (https://cel.dev) behind one adapter class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from stepwell.domain.documents import JsonValue

STEP_VARIABLES = frozenset({"input", "run", "steps", "item", "index", "error"})
TRIGGER_VARIABLES = frozenset({"body", "headers", "query", "method", "event", "trigger"})


@dataclass(frozen=True, slots=True)
class Scope:
    """Which names an expression may use at one place of a manifest.

    ``steps`` are the step's transitive predecessors, ``declared`` all steps of the workflow (to tell a typo from a
    step that does not come before). With ``bare``, a free identifier ``x`` means ``input.x``; ``fields`` are the names
    that the input is known to have, None where its shape is not known.
    """

    variables: frozenset[str]
    steps: frozenset[str] = frozenset()
    declared: frozenset[str] = frozenset()
    bare: bool = False
    fields: frozenset[str] | None = None


class Context:
    """The values that the expressions of one step see, shared by all of them."""

    def __init__(self, variables: Mapping[str, JsonValue], *, now: datetime) -> None:
        raise NotImplementedError


class Expression:
    """A compiled expression. ``variables`` are the scope's variables that it reads (a bare name reads ``input``)."""

    text: str
    variables: frozenset[str]

    def evaluate(self, context: Context) -> JsonValue:
        """The value as JSON. Raises EvaluationError, naming the expression and the key that is missing."""
        raise NotImplementedError

    def test(self, context: Context) -> bool:
        """The value of a condition. Raises EvaluationError where it is not a boolean."""
        raise NotImplementedError


def compile_expression(text: str, scope: Scope) -> Expression:
    """Compile one expression. Raises ExpressionError for its syntax or for a name that it may not use."""
    raise NotImplementedError
