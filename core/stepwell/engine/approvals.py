"""People decide what runs wait for."""

from __future__ import annotations

from typing import Protocol

from stepwell.domain.approvals import Approval, Decision
from stepwell.domain.errors import NotFoundError, StepwellError
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.ports import ReadyRun


class DecidedError(StepwellError):
    """An approval was decided before, or its run is over."""

    exit_code = 2


class Decisions(Protocol):
    """Where decisions are kept. Every method raises UnavailableError; after it, it is unknown whether it took effect."""

    async def decide(self, namespace: str, run_id: str, step: str, decision: Decision) -> ReadyRun | None:
        """Decide an open question of a live run, and wake the run; None where there is none."""

    async def state(self, namespace: str, run_id: str, step: str) -> Approval | None:
        """A question, decided or not; None where the step never asked."""


class Approvals:
    """The first decision counts. The same person saying the same again, after a lost answer, is told that it stands."""

    def __init__(self, store: Decisions, offers: Offers) -> None:
        self._store = store
        self._offers = offers

    async def decide(self, namespace: str, run_id: str, step: str, decision: Decision) -> None:
        """Returns once it is durable. Raises NotFoundError, DecidedError, UnavailableError."""
        woken = await self._store.decide(namespace, run_id, step, decision)
        if woken is not None:
            await self._offers.add([woken])
            return
        found = await self._store.state(namespace, run_id, step)
        if found is None:
            message = f"run {run_id} has no approval {step} that waits for a decision"
            raise NotFoundError(message)
        stands = found.decision
        if stands is not None and (stands.approved, stands.by) == (decision.approved, decision.by):
            return
        raise DecidedError(_why_not(found, run_id))


def _why_not(found: Approval, run_id: str) -> str:
    if found.decision is None:
        return f"run {run_id} is over; nothing waits for approval {found.step} any more"
    word = "approved" if found.decision.approved else "rejected"
    return f"approval {found.step} of run {run_id} was {word} by {found.decision.by or 'nobody in time'} before"
