"""`approval`: asks once, looks at every wake, and time decides where nobody does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from engine_life import scene, until
from engine_specs import document, shown, value
from virtual_time import EPOCH, virtual_time

from stepwell.actions.approval import Approval
from stepwell.domain.approvals import Decision, Question
from stepwell.domain.errors import UnavailableError

if TYPE_CHECKING:
    from engine_life import Scene


class MemoryQuestions:
    """`Questions` as a store keeps them."""

    def __init__(self) -> None:
        self.asked: dict[tuple[str, str], Question] = {}
        self.decided: dict[tuple[str, str], Decision] = {}
        self.away = False

    async def ask(self, question: Question) -> Decision | None:
        if self.away:
            raise UnavailableError("PostgreSQL is not available")
        key = (question.run_id, question.step)
        assert self.asked.setdefault(key, question) == question, "asked again in other words"
        return self.decided.get(key)

    async def expire(self, question: Question, decision: Decision) -> Decision:
        return self.decided.setdefault((question.run_id, question.step), decision)


def asking(**fields: Any) -> dict[str, Any]:
    spec = {"message": "Ship {{ total }}?", **fields}
    return {"steps": [value("sum", {"total": 7}), {"name": "ask", "approval": spec}, value("last", "{{ total }}")]}


async def parked(s: Scene, claims: int = 1) -> None:
    row = s.database.rows["r1"]
    await until(lambda: row.claims == claims and row.status == "waiting")


async def woken(s: Scene) -> None:
    s.database.wake("r1")
    await s.offer("r1")


@virtual_time
async def test_a_question_waits_without_a_slot_until_somebody_decides() -> None:
    questions = MemoryQuestions()
    async with scene(asking(), actions={"approval": Approval(questions)}) as s:
        await s.submit()
        await parked(s)
        question = questions.asked["r1", "ask"]
        assert (question.message, question.workflow, question.namespace) == ("Ship 7?", "test", "default")
        assert question.due is None
        assert (s.dispatcher.busy, [r.step for r in s.database.attempts()]) == (0, ["sum"])
        await asyncio.sleep(86_400)
        await woken(s)
        await parked(s, claims=2)
        questions.decided["r1", "ask"] = Decision(approved=True, by="eve", comment="go", data={"limit": 3})
        await woken(s)
        assert await s.ended() == "succeeded"
        assert shown(s.database.attempts()) == {
            "sum": {"total": 7},
            "ask": {"approved": True, "by": "eve", "comment": "go", "data": {"limit": 3}},
            "last": 7,
        }


@virtual_time
async def test_a_rejection_is_an_answer() -> None:
    questions = MemoryQuestions()
    questions.decided["r1", "ask"] = Decision(approved=False, by="eve")
    spec = asking()
    spec["steps"][2]["if"] = "steps.ask.output.approved"
    async with scene(spec, actions={"approval": Approval(questions)}) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert [(r.step, r.status) for r in s.database.attempts()][1:] == [("ask", "succeeded"), ("last", "skipped")]


@pytest.mark.parametrize(("on_timeout", "approved"), [("Approve", True), ("Reject", False), (None, False)])
@virtual_time
async def test_time_decides_where_nobody_does(on_timeout: str | None, approved: bool) -> None:
    questions = MemoryQuestions()
    fields = {"timeout": "1h"} | ({"onTimeout": on_timeout} if on_timeout else {})
    async with scene(asking(**fields), actions={"approval": Approval(questions)}) as s:
        await s.submit()
        await parked(s)
        due = questions.asked["r1", "ask"].due
        assert due == s.database.rows["r1"].due_at == s.database.attempts()[0].finished_at + 3_600_000_000
        await asyncio.sleep(3_601)
        await woken(s)
        assert await s.ended() == "succeeded"
        output = document(s.database.attempts()[1].output)
        assert output == {"approved": approved, "by": None, "comment": "nobody decided in time", "data": None}


@virtual_time
async def test_time_may_fail_the_step() -> None:
    questions = MemoryQuestions()
    async with scene(asking(timeout="1h", onTimeout="Fail"), actions={"approval": Approval(questions)}) as s:
        await s.submit()
        await parked(s)
        await asyncio.sleep(3_601)
        await woken(s)
        assert await s.ended() == "failed"
        assert document(s.database.attempts()[1].error)["reason"] == "ApprovalTimedOut"
        assert s.database.rows["r1"].finished_at > EPOCH


@virtual_time
async def test_a_database_that_is_away_is_asked_again() -> None:
    questions = MemoryQuestions()
    questions.away = True
    async with scene(asking(), actions={"approval": Approval(questions)}) as s:
        await s.submit()
        await asyncio.sleep(10)
        assert not s.database.rows["r1"].final
        questions.away = False
        await parked(s)
        assert ("r1", "ask") in questions.asked


@virtual_time
async def test_a_process_without_approvals_says_so() -> None:
    async with scene(asking(), actions={"approval": Approval()}) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert document(s.database.attempts()[1].error)["reason"] == "NotConfigured"
