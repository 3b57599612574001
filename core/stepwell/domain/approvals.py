"""Approvals: what a step asks of a person, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stepwell.domain.documents import JsonValue

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Question:
    """What a step asks; ``due`` in microseconds: when it is decided by itself (None: never)."""

    run_id: str
    step: str
    namespace: str
    workflow: str
    message: str | None
    opened: int
    due: int | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided. ``by`` is None where its time ran out."""

    approved: bool
    by: str | None = None
    comment: str | None = None
    data: JsonValue = None


@dataclass(frozen=True, slots=True)
class Approval:
    """A question and its state, as people see it. ``live``: the run can still go on."""

    run_id: str
    workflow: str
    step: str
    message: str | None
    opened_at: datetime
    due_at: datetime | None
    decision: Decision | None = None
    live: bool = True


class Questions(Protocol):
    """Where a step asks. Every method may be repeated, and raises UnavailableError."""

    async def ask(self, question: Question) -> Decision | None:
        """Open the question if it is not yet; what was decided, None: nothing yet."""

    async def expire(self, question: Question, decision: Decision) -> Decision:
        """Decide it because its time ran out; what stands, which may be what a person said just before."""
