"""Which names an expression may use at one place of a manifest."""

from __future__ import annotations

from dataclasses import dataclass

STEP_VARIABLES = frozenset({"input", "run", "steps", "item", "index", "error"})
TRIGGER_VARIABLES = frozenset({"body", "headers", "query", "method", "event", "trigger"})
RUN_FIELDS = frozenset({"id", "input", "workflow", "namespace", "createdAt", "trigger"})
LINKS = "approvalUrl"
"""The root of what ``approvalUrl('step')`` reads; no expression can name it otherwise."""
STEP_FIELDS = frozenset({"output", "status", "error", "http"})


@dataclass(frozen=True, slots=True)
class Scope:
    """The names at one place.

    ``steps`` are the step's transitive predecessors, ``declared`` all steps of the workflow (to tell a typo from a
    step that does not come before). With ``bare``, a free identifier ``x`` means ``input.x``; ``fields`` are the names
    that the input is known to have, None where its shape is not known. ``links`` are the steps for which ``approvalUrl``
    makes a link.
    """

    variables: frozenset[str]
    steps: frozenset[str] = frozenset()
    declared: frozenset[str] = frozenset()
    bare: bool = False
    fields: frozenset[str] | None = None
    links: frozenset[str] = frozenset()
