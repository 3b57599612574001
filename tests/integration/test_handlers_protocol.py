"""What the statements do to a run whose steps are over and whose handlers are not: one party at a time, or two at once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from protocol import SECOND, Held, Side, Stage, parking, progress, revision, staged

from stepwell.adapters.postgres.approval_store import ApprovalStore
from stepwell.domain.approvals import Decision, Question
from stepwell.domain.errors import DataRefusedError
from stepwell.domain.handlers import BUDGET, RECOVERIES
from stepwell.domain.revision import Part
from stepwell.domain.states import RunStatus
from stepwell.engine.ports import ClaimedRun, End, FlushEntry, Handling, Park, Reaped, Turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ERROR = b'{"reason":"Broken","message":"no","step":"one"}'
BOTH = ("finally", "onFailure", "transform")


@contextlib.asynccontextmanager
async def handled(dsn: str, features: tuple[str, ...] = BOTH) -> AsyncIterator[tuple[Stage, Side]]:
    """A stage whose workflow has handlers."""
    async with staged(dsn) as stage:
        side = await stage.side()
        active = await side.intake.apply(revision(b"2", features=features))
        stage.revision_id = active.revision_id
        yield stage, side


def turn(
    run: ClaimedRun, status: RunStatus | None = RunStatus.FAILED, part: Part = Part.ON_FAILURE, **more: Any
) -> FlushEntry:
    """The run's steps are over (None: those of the list before), and a list of handlers has its turn."""
    at = run.created_at + SECOND
    error = None if status in (None, RunStatus.SUCCEEDED) else ERROR
    output = b'{"total": 7}' if status is RunStatus.SUCCEEDED else None
    outcome = None if status is None else End(status, at, 3600.0, error=error, output=output)
    return FlushEntry(run.id, run.fence, (), turn=Turn(part, at, at + BUDGET, outcome), **more)


def ended(run: ClaimedRun, status: RunStatus, *, kept: bool = True, error: bytes | None = None) -> FlushEntry:
    return FlushEntry(run.id, run.fence, end=End(status, run.created_at + 9 * SECOND, 60.0, kept=kept, error=error))


def in_handlers(run: ClaimedRun) -> Handling:
    assert run.handling is not None
    return Handling(*orjson.loads(run.handling))


async def test_the_outcome_is_written_with_its_error_and_the_run_goes_on(database: str) -> None:
    async with handled(database) as (stage, side):
        worker = await stage.worker()
        (run,) = await stage.running(worker)
        assert run.handling is None
        kept = await side.runs.flush(worker, [turn(run)])
        assert (kept[run.id].ended, kept[run.id].parked) == (False, None)
        row = await stage.run(run.id)
        assert (row["status"], row["outcome"], row["handlers"]) == ("running", "failed", Part.ON_FAILURE)
        assert row["error"] == orjson.loads(ERROR)
        assert row["finished_at"] is None
        await side.runs.flush(worker, [ended(run, RunStatus.FAILED)])
        row = await stage.run(run.id)
        assert (row["status"], row["error"], row["handlers"]) == ("failed", orjson.loads(ERROR), None)


async def test_a_claim_tells_where_the_handlers_are(database: str) -> None:
    async with handled(database) as (stage, side):
        first, second = await stage.worker(), await stage.worker()
        (run,) = await stage.running(first)
        await side.runs.flush(first, [turn(run)])
        until = run.created_at + 77 * SECOND
        await side.runs.flush(first, [FlushEntry(run.id, run.fence, park=Park(run.wakes, None, until))])
        (again,) = await side.runs.claim(second, [run.id], token=2)
        expected = Handling("failed", orjson.loads(ERROR), Part.ON_FAILURE, run.created_at + SECOND, until)
        assert in_handlers(again) == expected
        assert in_handlers((await side.runs.claimed(second, 2))[0]) == expected


async def test_the_next_list_keeps_outcome_and_output_and_has_its_own_recoveries(database: str) -> None:
    async with handled(database) as (stage, side):
        worker = await stage.worker()
        (run,) = await stage.running(worker)
        await side.runs.flush(worker, [turn(run)])
        await stage.query("UPDATE runs SET recoveries = 2 WHERE id = %s", run.id)
        await side.runs.flush(worker, [turn(run, None, Part.FINALLY)])
        row = await stage.run(run.id)
        assert (row["outcome"], row["handlers"], row["recoveries"]) == ("failed", Part.FINALLY, None)
        assert row["error"] == orjson.loads(ERROR)


async def test_a_success_is_kept_until_finally_is_over_or_spoilt_by_it(database: str) -> None:
    async with handled(database) as (stage, side):
        worker = await stage.worker()
        good, bad = await stage.running(worker, 2)
        await side.runs.flush(worker, [turn(run, RunStatus.SUCCEEDED, Part.FINALLY) for run in (good, bad)])
        spoilt = ended(bad, RunStatus.FAILED, kept=False, error=b'{"reason":"X"}')
        await side.runs.flush(worker, [ended(good, RunStatus.SUCCEEDED), spoilt])
        rows = [await stage.run(run.id) for run in (good, bad)]
        assert [(row["status"], row["output_data"]) for row in rows] == [("succeeded", {"total": 7}), ("failed", None)]
        assert [row["error"] for row in rows] == [None, {"reason": "X"}]


async def test_a_turn_whose_answer_was_lost_is_repeated_harmlessly_though_a_cancel_came(database: str) -> None:
    async with handled(database) as (stage, side):
        worker = await stage.worker()
        (run,) = await stage.running(worker)
        entry = turn(run, RunStatus.SUCCEEDED, Part.FINALLY)
        await side.runs.flush(worker, [entry])
        assert await side.runs.cancel("shop", [run.id]) == {run.id: "running"}
        assert not (await side.runs.flush(worker, [entry]))[run.id].cancelled
        assert (await side.runs.flush(worker, [ended(run, RunStatus.SUCCEEDED)]))[run.id].ended
        assert await stage.status(run.id) == "succeeded"


async def test_a_cancel_that_comes_before_the_outcome_voids_a_success_and_no_other(database: str) -> None:
    async with handled(database) as (stage, side):
        worker = await stage.worker()
        well, badly = await stage.running(worker, 2)
        await side.runs.cancel("shop", [well.id, badly.id])
        kept = await side.runs.flush(worker, [turn(well, RunStatus.SUCCEEDED, Part.FINALLY), turn(badly)])
        assert kept[well.id].cancelled
        assert [(await stage.run(run.id))["outcome"] for run in (well, badly)] == [None, "failed"]


async def test_a_cancel_leaves_handlers_alone(database: str) -> None:
    """Parked ones keep their timer, and one that is cancelled may park."""
    async with handled(database) as (stage, side):
        worker = await stage.worker()
        parked, running = await stage.running(worker, 2)
        await side.runs.flush(worker, [turn(parked), turn(running)])
        due = stage.clock.micros() + 60 * SECOND
        await side.runs.flush(worker, [FlushEntry(parked.id, parked.fence, park=Park(parked.wakes, due, due))])
        found = await side.runs.cancel("shop", [parked.id, running.id])
        assert found == {parked.id: "waiting", running.id: "running"}
        assert await stage.timers() == [parked.id]
        kept = await side.runs.flush(
            worker, [FlushEntry(running.id, running.fence, park=Park(running.wakes, due, due))]
        )
        assert kept[running.id].parked == "waiting"


@pytest.mark.parametrize(("features", "status"), [(BOTH, "queued"), (("finally",), "queued"), ((), "cancelled")])
async def test_a_cancelled_run_is_queued_for_its_handlers_unless_it_never_began(
    database: str, features: tuple[str, ...], status: str
) -> None:
    async with handled(database, features) as (stage, side):
        worker = await stage.worker()
        waiting, returned = await stage.waiting(worker), (await stage.running(worker))[0]
        await side.runs.flush(worker, [parking(returned, None)])
        (fresh,) = await stage.queued()
        found = await side.runs.cancel("shop", [waiting, returned.id, fresh])
        assert found == {waiting: status, returned.id: status, fresh: "cancelled"}
        assert await stage.timers() == []
        if status == "queued":
            claimed = await side.runs.claim(worker, [waiting, returned.id], token=3)
            assert [(run.cancelled, run.handling) for run in claimed] == [(True, None)] * 2


async def test_what_the_steps_asked_is_open_no_more_and_what_a_handler_asks_is(database: str) -> None:
    async with handled(database) as (stage, side):
        worker, store = await stage.worker(), ApprovalStore(side.session)
        (run,) = await stage.running(worker)
        await store.ask(Question(run.id, "ask", "shop", "order", None, run.created_at, None))
        await side.runs.flush(worker, [turn(run)])
        await store.ask(Question(run.id, "again", "shop", "order", None, run.created_at + SECOND, None))
        assert [approval.step for approval in await store.pending("shop", None, None, 10)] == ["again"]
        found = [await store.state("shop", run.id, step) for step in ("ask", "again")]
        assert [approval is not None and approval.live for approval in found] == [False, True]
        decision = Decision(approved=True, by="eve")
        assert await store.decide("shop", run.id, "ask", decision) is None
        assert await store.decide("shop", run.id, "again", decision) is not None


async def test_a_park_that_waited_for_a_cancel_of_a_run_with_handlers_is_void(database: str) -> None:
    async with handled(database) as (stage, side):
        worker, canceller = await stage.worker(), await stage.held()
        (run,) = await stage.running(worker)
        await canceller.runs.cancel("shop", [run.id])
        parker: Held = await stage.held()
        due = parking(run, stage.clock.micros() + 60 * SECOND)
        flushing = await stage.waits(parker, parker.runs.flush(worker, [due]))
        await canceller.commit()
        answer = (await flushing)[run.id]
        await parker.commit()
        assert (answer.cancelled, answer.parked) == (True, None)
        assert (await side.runs.flush(worker, [turn(run, RunStatus.CANCELLED)]))[run.id].cancelled
        assert (await stage.run(run.id))["outcome"] == "cancelled"


async def test_a_cancelled_run_that_is_handed_back_is_queued_for_its_handlers(database: str) -> None:
    async with handled(database) as (stage, side):
        worker = await stage.worker()
        run, late = await stage.running(worker, 2)
        await side.runs.flush(worker, [turn(late)])
        await side.runs.cancel("shop", [run.id, late.id])
        await side.runs.hand_back(worker, {run.id: run.fence, late.id: late.fence})
        assert [await stage.status(run.id), await stage.status(late.id)] == ["queued", "queued"]
        assert (await stage.run(late.id))["error"] == orjson.loads(ERROR)


async def test_the_error_of_an_outcome_is_no_end(database: str) -> None:
    """Constraints hold the shape: handlers come after an outcome, and that is a final status."""
    async with handled(database) as (stage, side):
        worker = await stage.worker()
        (run,) = await stage.running(worker)
        with pytest.raises(DataRefusedError):
            await side.runs.flush(worker, [turn(run, None)])
        with pytest.raises(DataRefusedError):
            await side.runs.flush(worker, [turn(run, RunStatus.RUNNING)])


# -- workers that die ----------------------------------------------------------------------------------------------------


async def death(stage: Stage, side: Side, run_id: str) -> Reaped:
    """A worker claims the run and dies of it; what became of the run."""
    worker = await stage.worker()
    found = await side.runs.claim(worker, [run_id], 1) or await side.runs.claim_suspects(worker, 1, 1)
    assert [run.id for run in found] == [run_id]
    await stage.kill(worker)
    (reaped,) = await side.upkeep.reap(await side.upkeep.orphans(), deaths=5)
    return reaped


async def handling_of(stage: Stage, run_id: str) -> tuple[Any, ...]:
    row = await stage.run(run_id)
    return row["status"], row["outcome"], row["handlers"], row["recoveries"]


async def test_a_list_is_taken_up_three_times_with_its_time_anew_then_the_next_one_has_its_turn(database: str) -> None:
    async with handled(database) as (stage, side):
        worker = await stage.worker()
        (run,) = await stage.running(worker)
        await side.runs.flush(
            worker,
            [
                turn(run),
            ],
        )
        await side.runs.flush(worker, [progress(run, "one")])
        await side.runs.flush(worker, [FlushEntry(run.id, run.fence, park=Park(run.wakes, None, run.created_at))])
        for recovery in range(1, RECOVERIES + 1):
            assert (await death(stage, side, run.id)).status == "queued"
            assert await handling_of(stage, run.id) == ("queued", "failed", Part.ON_FAILURE, recovery)
        row = await stage.run(run.id)
        assert (row["handlers_until"] - row["handlers_at"]).total_seconds() > BUDGET / 1e6 - 1, "its time begins anew"
        assert (await death(stage, side, run.id)).status == "queued"
        assert await handling_of(stage, run.id) == ("queued", "failed", Part.FINALLY, None)
        for _ in range(RECOVERIES):
            await death(stage, side, run.id)
        assert (await death(stage, side, run.id)).status == "failed"
        row = await stage.run(run.id)
        assert (row["outcome"], row["error"]) == ("failed", orjson.loads(ERROR)), "the first error stays"


@pytest.mark.parametrize(("outcome", "status"), [("succeeded", "failed"), ("cancelled", "cancelled")])
async def test_finally_that_kills_its_workers_spoils_a_success_only(database: str, outcome: str, status: str) -> None:
    async with handled(database, ("finally",)) as (stage, side):
        worker = await stage.worker()
        (run,) = await stage.running(worker)
        await side.runs.flush(worker, [turn(run, RunStatus(outcome), Part.FINALLY)])
        await stage.kill(worker)
        await side.upkeep.reap(await side.upkeep.orphans(), deaths=5)
        for _ in range(RECOVERIES):
            reaped = await death(stage, side, run.id)
        assert (reaped.status, reaped.poisonous) == (status, False)
        row = await stage.run(run.id)
        assert row["error"]["reason"] == ("PoisonPill" if outcome == "succeeded" else "Broken")
        assert row["output_data"] is None
        assert row["expires_at"] > row["finished_at"]


@pytest.mark.parametrize(
    ("cancelled", "outcome", "reason"), [(False, "failed", "PoisonPill"), (True, "cancelled", "Cancelled")]
)
async def test_a_poison_pill_runs_its_handlers(database: str, cancelled: bool, outcome: str, reason: str) -> None:
    async with handled(database) as (stage, side):
        (run_id,) = await stage.queued()
        await stage.suspect(side, run_id, deaths=4)
        if cancelled:
            assert await side.runs.cancel("shop", [run_id]) == {run_id: "queued"}
        reaped = await death(stage, side, run_id)
        assert (reaped.status, reaped.poisonous) == ("queued", not cancelled)
        assert await handling_of(stage, run_id) == ("queued", outcome, Part.ON_FAILURE, None)
        (run,) = await side.runs.claim_suspects(await stage.worker(), 1, 1)
        found = in_handlers(run)
        assert (found.outcome, found.part) == (outcome, Part.ON_FAILURE)
        assert found.error is not None
        assert found.error["reason"] == reason


async def test_a_cancelled_orphan_is_queued_for_its_handlers(database: str) -> None:
    async with handled(database, ("onFailure",)) as (stage, side):
        worker = await stage.worker()
        (run,) = await stage.running(worker)
        await side.runs.cancel("shop", [run.id])
        await stage.kill(worker)
        (reaped,) = await side.upkeep.reap(await side.upkeep.orphans(), deaths=5)
        assert (reaped.status, reaped.poisonous) == ("queued", False)
        assert await handling_of(stage, run.id) == ("queued", None, None, None)


async def test_two_reapers_at_once_count_a_recovery_once(database: str) -> None:
    async with handled(database) as (stage, side):
        worker = await stage.worker()
        (run,) = await stage.running(worker)
        await side.runs.flush(worker, [turn(run)])
        await stage.kill(worker)
        orphans = await side.upkeep.orphans()
        other = await stage.side()
        reaped = await asyncio.gather(*(party.upkeep.reap(orphans, deaths=5) for party in (side, other)))
        assert sum(map(len, reaped)) == 1
        assert await handling_of(stage, run.id) == ("queued", "failed", Part.ON_FAILURE, 1)
