"""Approvals on PostgreSQL: ``Questions`` of the domain, and what people do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.run_store import uuid_array
from stepwell.domain.approvals import Approval, Decision, Question
from stepwell.engine.ports import PRIORITIES, ReadyRun

if TYPE_CHECKING:
    from stepwell.adapters.postgres.session import Session

_SQL = queries.load("approvals")


class ApprovalStore:
    """Over one session. Raises UnavailableError where PostgreSQL does not answer."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def ask(self, question: Question) -> Decision | None:
        """See Questions."""
        rows = await self._find(question)
        if not rows:
            await self._session.execute(
                _SQL["open"],
                {
                    "run": question.run_id,
                    "step": question.step,
                    "namespace": question.namespace,
                    "workflow": question.workflow,
                    "message": question.message,
                    "opened": question.opened,
                    "due": question.due,
                },
            )
            return None
        return rows[0]

    async def expire(self, question: Question, decision: Decision) -> Decision:
        """See Questions."""
        params = {"run": question.run_id, "step": question.step}
        await self._session.execute(
            _SQL["expire"], params | {"approved": decision.approved, "comment": decision.comment}
        )
        found = await self._find(question)
        return found[0] or decision

    async def decide(self, namespace: str, run_id: str, step: str, decision: Decision) -> ReadyRun | None:
        """Decide an open question of a live run, and wake the run; None where there is none: see `state`."""
        params = {
            "ids": uuid_array([run_id]),
            "namespace": namespace,
            "step": step,
            "approved": decision.approved,
            "by": decision.by,
            "comment": decision.comment,
            "data": None if decision.data is None else orjson.dumps(decision.data).decode(),
        }
        rows = await self._session.execute(_SQL["decide"], params)
        return ReadyRun(rows[0][0], rows[0][1], rows[0][3], PRIORITIES[rows[0][2]]) if rows else None

    async def state(self, namespace: str, run_id: str, step: str) -> Approval | None:
        """A question, decided or not; None where the step never asked."""
        params = {"ids": uuid_array([run_id]), "namespace": namespace, "step": step}
        rows = await self._session.execute(_SQL["state"], params)
        if not rows:
            return None
        workflow, name, message, opened, due, decided, approved, by, comment, live = rows[0]
        decision = None if decided is None else Decision(approved, by, comment)
        return Approval(run_id, workflow, name, message, opened, due, decision, live)

    async def namespace(self, run_id: str, step: str) -> str | None:
        """The namespace of a question, for whoever holds a link; None where the step never asked."""
        rows = await self._session.execute(_SQL["namespace"], {"run": run_id, "step": step})
        return rows[0][0] if rows else None

    async def pending(
        self, namespace: str, workflow: str | None, after: tuple[str, str] | None, limit: int
    ) -> list[Approval]:
        """A page of the questions of a namespace, or of one workflow, that wait for somebody; ``after`` is the run and step
        that the page before ended with.
        """
        run, step = after or ("00000000-0000-0000-0000-000000000000", "")
        params = {"namespace": namespace, "workflow": workflow, "after_run": run, "after_step": step, "limit": limit}
        rows = await self._session.execute(_SQL["pending"], params)
        return [Approval(*row) for row in rows]

    async def _find(self, question: Question) -> list[Decision | None]:
        rows = await self._session.execute(_SQL["find"], {"run": question.run_id, "step": question.step})
        return [
            None if approved is None else Decision(approved, by, comment, None if data is None else orjson.loads(data))
            for approved, by, comment, data in rows
        ]
