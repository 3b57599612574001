"""Approvals in PostgreSQL: decided once, by whoever comes first, and no decision is lost while its run parks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from memory_store import MemoryQueue
from protocol import SECOND, parking, staged

from stepwell.adapters.postgres.approval_store import ApprovalStore
from stepwell.domain.approvals import Decision, Question
from stepwell.domain.errors import NotFoundError
from stepwell.engine.approvals import Approvals, DecidedError
from stepwell.engine.maintenance.offers import Offers

if TYPE_CHECKING:
    from protocol import Side, Stage

    from stepwell.engine.ports import ClaimedRun

YES = Decision(approved=True, by="eve", comment="fine", data={"limit": 3})
NO = Decision(approved=False, by="mallory")


def question(run: ClaimedRun, step: str = "ask") -> Question:
    return Question(run.id, step, run.namespace, "order", "Ship?", run.created_at, run.created_at + SECOND)


async def asked(stage: Stage) -> tuple[ClaimedRun, Side, ApprovalStore, Approvals, MemoryQueue]:
    """A running run that asked."""
    side = await stage.side()
    (run,) = await stage.running(await stage.worker())
    store, queue = ApprovalStore(side.session), MemoryQueue()
    assert await store.ask(question(run)) is None
    return run, side, store, Approvals(store, Offers(queue)), queue


async def test_a_decision_wakes_the_run_and_is_read_by_the_step(database: str) -> None:
    async with staged(database) as stage:
        run, side, store, approvals, queue = await asked(stage)
        worker = (await stage.run(run.id))["worker_id"]
        await side.runs.flush(worker, [parking(run, None, wakes=0)])
        (parked,) = await side.runs.claim(worker, [run.id], token=2)
        await side.runs.flush(worker, [parking(parked, stage.clock.micros() + 3600 * SECOND)])
        assert await stage.status(run.id) == "waiting"
        await approvals.decide("shop", run.id, "ask", YES)
        assert await stage.status(run.id) == "queued"
        assert [ready.id for ready in queue.added] == [run.id]
        assert await store.ask(question(run)) == YES


async def test_a_decision_while_the_run_parks_is_not_lost(database: str) -> None:
    async with staged(database) as stage:
        run, side, _, approvals, _ = await asked(stage)
        await approvals.decide("shop", run.id, "ask", YES)
        worker = (await stage.run(run.id))["worker_id"]
        kept = await side.runs.flush(worker, [parking(run, stage.clock.micros() + 3600 * SECOND)])
        assert kept[run.id].parked == "queued"


async def test_the_first_decision_counts_and_repeating_it_is_no_error(database: str) -> None:
    async with staged(database) as stage:
        run, _, store, approvals, queue = await asked(stage)
        answers = await asyncio.gather(
            *(approvals.decide("shop", run.id, "ask", decision) for decision in (YES, NO, YES)), return_exceptions=True
        )
        first = await store.ask(question(run))
        assert first in (YES, NO)
        assert [isinstance(a, DecidedError) for a in answers] == [d != first for d in (YES, NO, YES)]
        assert len(queue.added) == 1
        with pytest.raises(
            DecidedError, match=r"approval ask of run \S+ was (approved by eve|rejected by mallory) before"
        ):
            await approvals.decide("shop", run.id, "ask", Decision(approved=True, by="other"))


async def test_time_and_a_person_do_not_both_decide(database: str) -> None:
    async with staged(database) as stage:
        run, _, store, approvals, _ = await asked(stage)
        await approvals.decide("shop", run.id, "ask", YES)
        assert await store.expire(question(run), Decision(approved=False, comment="late")) == YES
        other, _, store, approvals, _ = await asked(stage)
        late = Decision(approved=False, comment="late")
        assert await store.expire(question(other), late) == late
        with pytest.raises(DecidedError, match="rejected by nobody in time"):
            await approvals.decide("shop", other.id, "ask", YES)


async def test_foreign_absent_and_ended_runs(database: str) -> None:
    async with staged(database) as stage:
        run, side, store, approvals, _ = await asked(stage)
        for namespace, run_id, step in (
            ("other", run.id, "ask"),
            ("shop", run.id, "nothing"),
            ("shop", "01a20566-58b5-7d1f-8d2d-716956d2bc1a", "ask"),
        ):
            with pytest.raises(NotFoundError, match="has no approval"):
                await approvals.decide(namespace, run_id, step, YES)
        worker = (await stage.run(run.id))["worker_id"]
        await side.runs.cancel("shop", [run.id])
        await side.runs.hand_back(worker, {run.id: run.fence})
        assert await stage.status(run.id) == "cancelled"
        with pytest.raises(DecidedError, match="is over; nothing waits"):
            await approvals.decide("shop", run.id, "ask", YES)
        assert await store.pending("shop", None, None, 10) == []


async def test_pages_of_what_waits(database: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        store = ApprovalStore(side.session)
        runs = await stage.running(await stage.worker(), 3)
        for run in runs:
            await store.ask(question(run, "first"))
            await store.ask(question(run, "second"))
        wanted = [(run.id, step) for run in runs for step in ("first", "second")]
        first = await store.pending("shop", "order", None, 4)
        rest = await store.pending("shop", None, (first[-1].run_id, first[-1].step), 4)
        assert [(a.run_id, a.step) for a in [*first, *rest]] == wanted
        assert (first[0].message, first[0].live, first[0].decision) == ("Ship?", True, None)
        assert await store.pending("shop", "other", None, 4) == await store.pending("other", None, None, 4) == []


async def test_what_a_removed_run_asked_goes_with_it(database: str) -> None:
    async with staged(database) as stage:
        run, side, _, _, _ = await asked(stage)
        await stage.query(
            "UPDATE runs SET status = 'failed', finished_at = now(), expires_at = now() WHERE id = %s", run.id
        )
        assert await side.upkeep.delete_runs([run.id]) == 1
        assert await stage.query("SELECT * FROM approvals") == []
