"""The run protocol, rule by rule: interleavings of the real statements that break naive versions of them.

A party's transaction is held open where another one shall meet its locks; that it does is read from PostgreSQL, never
assumed after a while.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from protocol import HOUR, SECOND, ending, parking, progress, revision, staged

from stepwell.domain.errors import DataRefusedError
from stepwell.domain.states import FINAL, RunStatus

if TYPE_CHECKING:
    from protocol import Held, Stage

SUCCEEDED, FAILED = RunStatus.SUCCEEDED, RunStatus.FAILED
NOBODY = 999_999  #: a worker that was never registered


# -- claim -----------------------------------------------------------------------------------------------------------------


async def test_of_two_claims_one_gets_the_run(database: str) -> None:
    async with staged(database) as stage:
        ids = await stage.queued(3)
        one, two, a, b = await stage.worker(), await stage.worker(), await stage.held(), await stage.held()
        first = await a.runs.claim(one, ids[:2], token=1)
        later = await stage.waits(b, b.runs.claim(two, ids, token=2))
        await a.commit()
        second = await later
        await b.commit()
        assert sorted(run.id for run in first) == ids[:2]
        assert [run.id for run in second] == ids[2:]
        assert {(await stage.run(i))["worker_id"] for i in ids[:2]} == {one}


async def test_a_claim_that_waited_for_a_cancel_takes_what_is_left(database: str) -> None:
    async with staged(database) as stage:
        ids = await stage.queued(2)
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        await a.runs.cancel("shop", ids[:1])
        claim = await stage.waits(b, b.runs.claim(worker, ids, token=1))
        await a.commit()
        assert [run.id for run in await claim] == ids[1:]
        await b.commit()
        assert await stage.status(ids[0]) == "cancelled"


async def test_a_claim_takes_a_run_that_was_woken_while_it_waited(database: str) -> None:
    async with staged(database) as stage:
        (run_id,) = await stage.queued()
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        await a.upkeep.wake([run_id])
        claim = await stage.waits(b, b.runs.claim(worker, [run_id], token=1))
        await a.commit()
        (run,) = await claim
        await b.commit()
        assert run.wakes == 1, "the answer is of the row as it was locked, not as it was first seen"


async def test_history_is_read_after_the_claim_since_the_claims_snapshot_may_be_older_than_its_locks(
    database: str,
) -> None:
    async with staged(database) as stage:
        first, second = await stage.queued(2)
        one, two, blocker, b = await stage.worker(), await stage.worker(), await stage.held(), await stage.held()
        await blocker.upkeep.wake([first])
        claim = await stage.waits(b, b.runs.claim(two, [first, second], token=2))  # its snapshot is taken
        side = await stage.side()
        (run,) = await side.runs.claim(one, [second], token=1)
        await side.runs.flush(one, [progress(run, "charge")])
        assert await side.runs.hand_back(one, {run.id: run.fence}) == [second]
        await blocker.rollback()
        claimed = {run.id: run for run in await claim}
        assert claimed[second].claims == 2, "which tells that there may be history"
        assert [attempt.step for attempt in await b.runs.attempts([second])] == ["charge"]
        await b.commit()


async def test_claims_and_cancels_of_the_same_runs_never_deadlock(database: str) -> None:
    async with staged(database) as stage:
        ids = await stage.queued(6)
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        # The older the run, the later its row stands in the table: reading in that order is against the order of ids.
        for run_id in reversed(ids):
            await stage.query("UPDATE runs SET priority = 1 WHERE id = %s", run_id)
            await stage.query("UPDATE runs SET namespace = 'shop ' WHERE id = %s", run_id)
            await stage.query("UPDATE runs SET namespace = 'shop' WHERE id = %s", run_id)
        await a.runs.cancel("shop", ids[:1])
        claim = await stage.waits(b, b.runs.claim(worker, ids, token=1))
        assert len(await a.runs.cancel("shop", ids)) == 5, "the claim waits at the first, and holds none of the others"
        await a.commit()
        assert await claim == []


async def test_without_redis_two_workers_claim_disjoint_sets_and_none_waits(database: str) -> None:
    async with staged(database) as stage:
        ids = set(await stage.queued(10))
        one, two, a, b = await stage.worker(), await stage.worker(), await stage.held(), await stage.held()
        first = {run.id for run in await a.runs.claim_oldest(one, 4, token=1)}
        second = {run.id for run in await b.runs.claim_oldest(two, 4, token=2)}
        await a.commit()
        await b.commit()
        assert len(first) == len(second) == 4
        assert not first & second
        assert first | second == set(sorted(ids)[:8]), "the oldest come first"


async def test_without_redis_every_namespace_gets_its_share(database: str) -> None:
    async with staged(database) as stage:
        await stage.queued(60, namespace="a-large-one")
        (lone,) = await stage.queued(namespace="z-small-one")
        side, worker = await stage.side(), await stage.worker()
        first = await side.runs.claim_oldest(worker, 10, token=1)
        assert lone in {run.id for run in first}
        assert Counter(run.namespace for run in first) == {"a-large-one": 5, "z-small-one": 1}
        rest = await side.runs.claim_oldest(worker, 100, token=2)
        assert len(rest) == 50, "what a poor namespace leaves goes to the others with the next claims"
        assert len(await side.runs.claim_oldest(worker, 10, token=3)) == 5


async def test_without_redis_more_namespaces_than_slots_take_turns(database: str) -> None:
    async with staged(database) as stage:
        for number in range(6):
            await stage.queued(4, namespace=f"tenant-{number}")
        side, worker = await stage.side(), await stage.worker()
        served = [{r.namespace for r in await side.runs.claim_oldest(worker, 2, token)} for token in range(12)]
        assert all(len(namespaces) == 2 for namespaces in served[:6])
        assert len(set.union(*served[:3])) > 2, "the first two of the alphabet are not all that is served"
        assert await side.runs.claim_oldest(worker, 50, 99) == []


async def test_a_lost_claim_is_read_back_by_its_token(database: str) -> None:
    async with staged(database) as stage:
        ids = await stage.queued(3)
        side, worker = await stage.side(), await stage.worker()
        taken = await side.runs.claim(worker, ids[:2], token=71)
        await side.runs.claim(worker, ids[2:], token=72)
        assert sorted(await side.runs.claimed(worker, 71)) == sorted(taken)
        assert await side.runs.claimed(worker, 70) == []
        assert await side.runs.claimed(await stage.worker(), 71) == []


async def test_revisions_that_a_worker_cannot_compile_are_left_to_others(database: str) -> None:
    async with staged(database) as stage:
        ids = await stage.queued(2)
        side, worker = await stage.side(), await stage.worker()
        side.runs.unsupported.add(stage.revision_id)
        assert await side.runs.claim(worker, ids, token=1) == []
        assert await side.runs.claim_oldest(worker, 5, token=2) == []
        side.runs.unsupported.clear()
        assert len(await side.runs.claim(worker, ids, token=3)) == 2


# -- flush -----------------------------------------------------------------------------------------------------------------


async def test_a_zombies_flush_writes_nothing_and_an_innocent_run_in_it_goes_through(database: str) -> None:
    async with staged(database) as stage:
        zombie, heir = await stage.worker(), await stage.worker()
        ended, parked, stepped, innocent = await stage.running(zombie, 4)
        side = await stage.side()
        # Taken back and claimed by another: all but the innocent one, which another life of the same worker holds.
        lost = {run.id: run.fence for run in (ended, parked, stepped)}
        assert len(await side.upkeep.reap(lost, deaths=5)) == 3
        for _ in lost:
            await side.runs.claim_suspects(heir, 1, token=2)
        due = stage.clock.micros() + HOUR
        kept = await side.runs.flush(
            zombie, [ending(ended), parking(parked, due), progress(stepped, "charge"), ending(innocent)]
        )
        assert list(kept) == [innocent.id]
        assert kept[innocent.id].ended
        for run in (ended, parked, stepped):
            row = await stage.run(run.id)
            assert (row["status"], row["worker_id"]) == ("running", heir)
            assert await stage.steps(run.id) == []
        assert await stage.timers() == []


async def test_a_flush_of_the_same_worker_under_an_older_fence_writes_nothing(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        (old,) = await stage.running(worker)
        await side.runs.hand_back(worker, {old.id: old.fence})
        (new,) = await side.runs.claim(worker, [old.id], token=2)
        assert await side.runs.flush(worker, [ending(old)]) == {}
        assert list(await side.runs.flush(await stage.worker(), [ending(new)])) == [], "nor under another's id"
        assert (await side.runs.flush(worker, [ending(new)]))[new.id].ended


async def test_a_flush_that_waited_for_a_cancel_sees_it_and_voids_the_success(database: str) -> None:
    async with staged(database) as stage:
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        (run,) = await stage.running(worker)
        assert await a.runs.cancel("shop", [run.id]) == {run.id: "running"}
        flush = await stage.waits(b, b.runs.flush(worker, [ending(run)]))
        await a.commit()
        kept = (await flush)[run.id]
        await b.commit()
        assert (kept.cancelled, kept.ended) == (True, False)
        assert await stage.status(run.id) == "running"
        assert await stage.steps(run.id) == ["charge"], "the step was done and its result is kept"
        side = await stage.side()
        assert (await side.runs.flush(worker, [ending(run, RunStatus.CANCELLED, ())]))[run.id].ended
        assert await stage.status(run.id) == "cancelled"


@pytest.mark.parametrize("status", sorted(FINAL - {SUCCEEDED}))
async def test_any_end_but_success_stands_after_a_cancel(database: str, status: RunStatus) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        (run,) = await stage.running(worker)
        await side.runs.cancel("shop", [run.id])
        assert (await side.runs.flush(worker, [ending(run, status)]))[run.id].ended
        assert await stage.status(run.id) == status


@pytest.mark.parametrize("due", [True, False], ids=["until a timer", "back into the queue"])
async def test_a_cancelled_run_is_not_parked_so_that_nobody_starts_anything_of_it(database: str, due: bool) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        (run,) = await stage.running(worker)
        await side.runs.cancel("shop", [run.id])
        kept = await side.runs.flush(worker, [parking(run, stage.clock.micros() + HOUR if due else None)])
        assert kept[run.id].parked is None
        assert kept[run.id].cancelled
        assert await stage.status(run.id) == "running"
        assert await stage.timers() == []


async def test_a_flush_whose_answer_was_lost_is_repeated_harmlessly(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        going, done, parked = await stage.running(worker, 3)
        batch = [progress(going, "charge"), ending(done), parking(parked, stage.clock.micros() + HOUR)]
        first = await side.runs.flush(worker, batch)
        rows = [await stage.run(run.id) for run in (going, done, parked)]
        again = await side.runs.flush(worker, batch)
        assert again == {going.id: first[going.id]}, "what left the worker is no longer its"
        assert [await stage.run(run.id) for run in (going, done, parked)] == rows
        assert await stage.steps(going.id) == ["charge"]


# -- park and wake ---------------------------------------------------------------------------------------------------------


async def test_a_wake_that_comes_before_the_park_is_not_lost(database: str) -> None:
    async with staged(database) as stage:
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        (run,) = await stage.running(worker)
        assert await a.upkeep.wake([run.id]) == [], "it runs: there is nothing to offer"
        park = await stage.waits(b, b.runs.flush(worker, [parking(run, stage.clock.micros() + HOUR)]))
        await a.commit()
        kept = (await park)[run.id]
        await b.commit()
        assert (kept.parked, kept.wakes) == ("queued", 1)
        assert await stage.timers() == []


async def test_a_wake_that_comes_after_the_park_queues_the_run(database: str) -> None:
    async with staged(database) as stage:
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        (run,) = await stage.running(worker)
        kept = await a.runs.flush(worker, [parking(run, stage.clock.micros() + HOUR)])
        assert kept[run.id].parked == "waiting"
        wake = await stage.waits(b, b.upkeep.wake([run.id]))
        await a.commit()
        assert [ready.id for ready in await wake] == [run.id]
        await b.commit()
        assert await stage.status(run.id) == "queued"


async def test_a_park_that_knows_of_the_wake_holds(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        (run,) = await stage.running(worker)
        await side.upkeep.wake([run.id])
        seen = (await side.runs.flush(worker, [progress(run, "charge")]))[run.id].wakes
        kept = await side.runs.flush(worker, [parking(run, stage.clock.micros() + HOUR, seen)])
        assert kept[run.id].parked == "waiting"


async def test_a_due_timer_wakes_its_run_once_however_many_leaders_there_are(database: str) -> None:
    async with staged(database) as stage:
        run_id = await stage.waiting(await stage.worker(), due_in=-1)
        a, b = await stage.held(), await stage.held()
        woken, later = await a.upkeep.wake_due(10)
        assert [run.id for run in woken] == [run_id]
        assert later is None
        second = await stage.waits(b, b.upkeep.wake_due(10))
        await a.commit()
        assert (await second)[0] == []
        await b.commit()
        row = await stage.run(run_id)
        assert (row["status"], row["wakes"]) == ("queued", 1)
        assert await stage.timers() == []


async def test_a_timer_that_was_set_anew_while_it_came_due_stays(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        run_id = await stage.waiting(worker, due_in=-1)
        await side.upkeep.wake([run_id])  # something else woke the run; its timer is still there
        (run,) = await side.runs.claim(worker, [run_id], token=2)
        a, b = await stage.held(), await stage.held()
        await a.runs.flush(worker, [parking(run, stage.clock.micros() + HOUR)])
        due = await stage.waits(b, b.upkeep.wake_due(10))
        await a.commit()
        assert (await due)[0] == []
        await b.commit()
        assert await stage.status(run_id) == "waiting"
        assert await stage.timers() == [run_id]


async def test_a_timer_that_comes_due_while_its_run_is_cancelled_wakes_nothing(database: str) -> None:
    async with staged(database) as stage:
        run_id = await stage.waiting(await stage.worker(), due_in=-1)
        a, b = await stage.held(), await stage.held()
        assert await a.runs.cancel("shop", [run_id]) == {run_id: "cancelled"}
        due = await stage.waits(b, b.upkeep.wake_due(10))
        await a.commit()
        assert (await due)[0] == []
        await b.commit()
        assert await stage.status(run_id) == "cancelled"
        assert await stage.timers() == []


async def test_a_cancel_that_comes_while_a_timer_is_due_does_not_deadlock(database: str) -> None:
    async with staged(database) as stage:
        run_id = await stage.waiting(await stage.worker(), due_in=-1)
        a, b = await stage.held(), await stage.held()
        await a.session.execute("SELECT 1 FROM runs WHERE id = %(id)s FOR NO KEY UPDATE", {"id": run_id})
        due = await stage.waits(b, b.upkeep.wake_due(10))
        # Had the leader deleted the timer before it locked the run, each would now wait for the other.
        assert await a.runs.cancel("shop", [run_id]) == {run_id: "cancelled"}
        await a.commit()
        assert (await due)[0] == []


async def test_a_timer_of_an_ended_run_goes_without_a_trace(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        run_id = await stage.waiting(worker, due_in=-1)
        await side.upkeep.wake([run_id])
        (run,) = await side.runs.claim(worker, [run_id], token=2)
        await side.runs.flush(worker, [ending(run)])
        assert await stage.timers() == [run_id]
        assert await side.upkeep.wake_due(10) == ([], None)
        assert await stage.timers() == []
        assert await stage.status(run_id) == "succeeded"


async def test_the_leader_learns_when_the_next_timer_is_due(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        assert await side.upkeep.wake_due(10) == ([], None)
        await stage.waiting(worker, due_in=3600)
        woken, later = await side.upkeep.wake_due(10)
        assert woken == []
        assert later is not None
        assert 3500 < later <= 3600
        for _ in range(3):
            await stage.waiting(worker, due_in=-1)
        woken, later = await side.upkeep.wake_due(2)
        assert (len(woken), later) == (2, 0.0), "there may be more"


async def test_the_audit_finds_a_run_that_nothing_would_wake_and_only_that(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        fine, lost = await stage.waiting(worker), await stage.waiting(worker)
        assert await side.upkeep.stranded() == []
        await stage.query("DELETE FROM timers WHERE run_id = %s", lost)
        assert await side.upkeep.stranded() == [lost]
        a, b = await stage.held(), await stage.held()
        assert [run.id for run in await a.upkeep.wake_stranded([lost, fine])] == [lost]
        assert await b.upkeep.wake_stranded([lost, fine]) == [], "another leader steps over the lock"
        await a.commit()
        await b.commit()
        assert (await stage.status(lost), await stage.status(fine)) == ("queued", "waiting")


# -- cancel ----------------------------------------------------------------------------------------------------------------


async def test_cancel_ends_queued_and_waiting_runs_at_once_and_flags_running_ones(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        (queued,) = await stage.queued()
        (running,) = await stage.running(worker)
        waiting = await stage.waiting(worker)
        ids = [queued, running.id, waiting]
        expected = {queued: "cancelled", running.id: "running", waiting: "cancelled"}
        assert await side.runs.cancel("shop", ids) == expected
        for run_id in (queued, waiting):
            row = await stage.run(run_id)
            assert row["finished_at"] is not None
            assert row["expires_at"] > row["finished_at"]
            assert row["error"]["reason"] == "Cancelled"
        assert await stage.timers() == []
        with stage.liveness() as liveness:
            assert liveness.cancelling(worker) == [running.id]
            assert liveness.cancelling(NOBODY) == []
        requested = (await stage.run(running.id))["cancel_requested_at"]
        assert await side.runs.cancel("shop", ids) == {running.id: "running"}, "again is harmless"
        assert (await stage.run(running.id))["cancel_requested_at"] == requested


async def test_a_cancel_reaches_only_its_namespace(database: str) -> None:
    async with staged(database) as stage:
        (run_id,) = await stage.queued()
        side = await stage.side()
        assert await side.runs.cancel("elsewhere", [run_id]) == {}
        assert await stage.status(run_id) == "queued"


async def test_a_cancel_that_waited_for_a_claim_flags_the_running_run(database: str) -> None:
    async with staged(database) as stage:
        (run_id,) = await stage.queued()
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        await a.runs.claim(worker, [run_id], token=1)
        cancel = await stage.waits(b, b.runs.cancel("shop", [run_id]))
        await a.commit()
        assert await cancel == {run_id: "running"}
        await b.commit()
        row = await stage.run(run_id)
        assert row["finished_at"] is None
        assert row["cancel_requested_at"] is not None


async def test_a_cancel_that_waited_for_the_end_changes_nothing(database: str) -> None:
    async with staged(database) as stage:
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        (run,) = await stage.running(worker)
        await a.runs.flush(worker, [ending(run)])
        cancel = await stage.waits(b, b.runs.cancel("shop", [run.id]))
        await a.commit()
        assert await cancel == {}
        await b.commit()
        row = await stage.run(run.id)
        assert (row["status"], row["cancel_requested_at"]) == ("succeeded", None)


# -- the end ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(FINAL))
async def test_an_ended_run_refuses_every_change(database: str, status: RunStatus) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        (run,) = await stage.running(worker)
        assert (await side.runs.flush(worker, [ending(run, status)]))[run.id].ended
        before = await stage.run(run.id)
        changes = ("status = 'queued', finished_at = NULL, expires_at = NULL", "output_data = '1'", "wakes = wakes + 1")
        for change in changes:
            with pytest.raises(psycopg.IntegrityError, match="an ended run is final"):
                await stage.query(f"UPDATE runs SET {change} WHERE id = %s", run.id)
        with pytest.raises(DataRefusedError, match="an ended run is final"):
            await side.session.execute("UPDATE runs SET claims = 9")
        assert await side.runs.claim(worker, [run.id], token=2) == []
        assert await side.runs.cancel("shop", [run.id]) == {}
        assert await side.upkeep.wake([run.id]) == []
        assert await side.upkeep.reap({run.id: run.fence}, deaths=5) == []
        assert await side.upkeep.wake_stranded([run.id]) == []
        assert await side.runs.hand_back(worker, {run.id: run.fence}) == []
        assert await stage.run(run.id) == before


# -- death and suspicion ---------------------------------------------------------------------------------------------------


async def test_the_reaper_steps_over_a_run_that_is_being_flushed(database: str) -> None:
    async with staged(database) as stage:
        worker, a, side = await stage.worker(), await stage.held(), await stage.side()
        (run,) = await stage.running(worker)
        await stage.kill(worker)
        await a.runs.flush(worker, [ending(run)])
        orphans = await side.upkeep.orphans()
        assert orphans == {run.id: run.fence}
        assert await side.upkeep.reap(orphans, deaths=5) == []
        await a.commit()
        assert await side.upkeep.reap(orphans, deaths=5) == []
        assert await stage.status(run.id) == "succeeded"


async def test_a_flush_that_waited_for_the_reaper_writes_nothing(database: str) -> None:
    async with staged(database) as stage:
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        (run,) = await stage.running(worker)
        await stage.kill(worker)
        assert len(await a.upkeep.reap({run.id: run.fence}, deaths=5)) == 1
        flush = await stage.waits(b, b.runs.flush(worker, [ending(run)]))
        await a.commit()
        assert await flush == {}
        await b.commit()
        assert await stage.status(run.id) == "queued"
        assert await stage.steps(run.id) == []


async def test_a_slow_reaper_takes_nothing_from_who_claimed_the_run_since(database: str) -> None:
    async with staged(database) as stage:
        dead, side = await stage.worker(), await stage.side()
        (run,) = await stage.running(dead)
        await side.runs.flush(dead, [progress(run, "charge")])
        await stage.kill(dead)
        orphans = await side.upkeep.orphans()
        assert len(await side.upkeep.reap(orphans, deaths=5)) == 1
        (claimed,) = await side.runs.claim(await stage.worker(), [run.id], token=2)
        assert await side.upkeep.reap(orphans, deaths=5) == [], "a second leader that saw the same orphans"
        assert (await stage.run(run.id))["fence"] == claimed.fence


async def test_two_reapers_at_once_count_a_death_once(database: str) -> None:
    async with staged(database) as stage:
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        (run,) = await stage.running(worker)
        await stage.kill(worker)
        assert len(await a.upkeep.reap({run.id: run.fence}, deaths=5)) == 1
        assert await b.upkeep.reap({run.id: run.fence}, deaths=5) == []
        await a.commit()
        await b.commit()
        assert (await stage.run(run.id))["suspicion"] == 1


async def test_runs_of_a_worker_that_was_never_seen_are_orphans(database: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        (mine,) = await stage.running(await stage.worker())
        (orphan,) = await stage.running(NOBODY)
        assert await side.upkeep.orphans() == {orphan.id: orphan.fence}
        assert await stage.status(mine.id) == "running"


async def test_a_beat_in_time_saves_the_worker(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        watched = (await side.upkeep.counters())[worker]
        with stage.liveness() as liveness:
            assert liveness.beat(worker)
            assert not await side.upkeep.declare_dead(worker, watched)
            assert liveness.beat(worker)


async def test_a_declaration_that_waited_for_a_beat_is_void(database: str) -> None:
    async with staged(database) as stage:
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        watched = (await a.upkeep.counters())[worker]
        await a.session.execute("UPDATE workers SET counter = counter + 1")
        declare = await stage.waits(b, b.upkeep.declare_dead(worker, watched))
        await a.commit()
        assert not await declare


async def test_a_worker_that_was_declared_dead_never_revives(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        await stage.kill(worker)
        with stage.liveness() as liveness:
            assert not liveness.beat(worker)
            assert not liveness.beat(worker)
        assert worker not in await side.upkeep.counters()


async def test_death_without_progress_makes_a_suspect_and_with_progress_it_does_not(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        moved, stood = await stage.running(worker, 2)
        await side.runs.flush(worker, [progress(moved, "charge")])
        await stage.kill(worker)
        reaped = {item.run.id: item for item in await side.upkeep.reap(await side.upkeep.orphans(), deaths=5)}
        assert (reaped[moved.id].suspect, reaped[stood.id].suspect) == (False, True)
        assert {item.status for item in reaped.values()} == {"queued"}
        heir = await stage.worker()
        claimed = await side.runs.claim(heir, [moved.id, stood.id], token=2)
        assert [run.id for run in claimed] == [moved.id], "suspects are claimed by those who ask for them"
        assert [run.id for run in await side.runs.claim_oldest(heir, 10, token=3)] == []
        assert [run.id for run in await side.runs.claim_suspects(heir, 1, token=4)] == [stood.id]


async def test_progress_under_an_earlier_claim_does_not_clear_a_run(database: str) -> None:
    async with staged(database) as stage:
        first, side = await stage.worker(), await stage.side()
        (run,) = await stage.running(first)
        await side.runs.flush(first, [progress(run, "charge")])
        await side.runs.hand_back(first, {run.id: run.fence})
        second = await stage.worker()
        await side.runs.claim(second, [run.id], token=2)
        await stage.kill(second)
        (reaped,) = await side.upkeep.reap(await side.upkeep.orphans(), deaths=5)
        assert reaped.suspect


async def test_five_deaths_as_a_suspect_end_a_poison_pill(database: str) -> None:
    async with staged(database) as stage:
        (run_id,) = await stage.queued()
        side = await stage.side()
        await stage.suspect(side, run_id, deaths=4)
        assert await stage.status(run_id) == "queued"
        worker = await stage.worker()
        await side.runs.claim_suspects(worker, 1, token=9)
        await stage.kill(worker)
        (reaped,) = await side.upkeep.reap(await side.upkeep.orphans(), deaths=5)
        assert reaped.status == "failed"
        row = await stage.run(run_id)
        assert row["error"] == {
            "reason": "PoisonPill",
            "message": "5 workers died while they executed this run; it is not tried again",
        }
        assert await kept_as_a_failure(stage, row)


async def test_an_orphan_whose_cancel_was_acknowledged_ends_as_cancelled(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        (run,) = await stage.running(worker)
        await side.runs.cancel("shop", [run.id])
        await stage.kill(worker)
        (reaped,) = await side.upkeep.reap(await side.upkeep.orphans(), deaths=5)
        assert reaped.status == "cancelled"
        row = await stage.run(run.id)
        assert (row["status"], row["error"]["reason"]) == ("cancelled", "Cancelled")
        assert await kept_as_a_failure(stage, row)


async def test_two_workers_ask_for_a_suspect_and_get_two(database: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        for run_id in await stage.queued(2):
            await stage.suspect(side, run_id)
        a, b = await stage.held(), await stage.held()
        (one,) = await a.runs.claim_suspects(await stage.worker(), 1, token=1)
        (two,) = await b.runs.claim_suspects(await stage.worker(), 1, token=2)
        await a.commit()
        await b.commit()
        assert one.id < two.id
        assert await side.runs.claim_suspects(await stage.worker(), 1, token=3) == []


async def test_suspects_of_the_first_time_come_in_groups_and_others_alone(database: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        ids = await stage.queued(5)
        await stage.suspect(side, ids[2], deaths=1)
        for run_id in (ids[0], ids[1], ids[3], ids[4]):
            await stage.suspect(side, run_id)

        async def claimed(limit: int) -> list[str]:
            runs = await side.runs.claim_suspects(await stage.worker(), limit, token=1)
            return sorted(run.id for run in runs)

        assert await claimed(4) == [ids[0], ids[1], ids[3]], "the third died twice"
        assert await claimed(4) == [ids[2]]
        assert await claimed(4) == [ids[4]]
        assert await claimed(4) == []


async def kept_as_a_failure(stage: Stage, row: dict[str, Any]) -> bool:
    """Whether the run expires once the retention of failed runs is over."""
    (revision,) = await stage.query("SELECT retain_failed FROM workflow_revisions")
    kept: timedelta = row["expires_at"] - row["finished_at"]
    return abs(kept - revision["retain_failed"]) < timedelta(seconds=1)


# -- ownership -------------------------------------------------------------------------------------------------------------


async def test_a_worker_hands_back_only_what_is_its_own(database: str) -> None:
    async with staged(database) as stage:
        worker, other, side = await stage.worker(), await stage.worker(), await stage.side()
        mine, newer = await stage.running(worker, 2)
        (foreign,) = await stage.running(other)
        wanted = {mine.id: mine.fence, newer.id: newer.fence - 1_000, foreign.id: foreign.fence}
        assert await side.runs.hand_back(worker, wanted) == [mine.id]
        row = await stage.run(mine.id)
        assert (row["status"], row["suspicion"]) == ("queued", 0), "no recovery is counted"
        assert await side.runs.owned(worker) == {newer.id: newer.fence}
        assert await side.runs.owned(other) == {foreign.id: foreign.fence}
        assert await side.runs.hand_back(worker, wanted) == []


async def test_what_no_worker_could_execute_was_not_started(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        fresh, stepped = await stage.running(worker, 2)
        await side.runs.flush(worker, [progress(stepped, "charge")])
        woken = await stage.waiting(worker, due_in=-1.0)
        await side.upkeep.wake_due(1)
        (resumed,) = await side.runs.claim(worker, [woken], 9)
        runs = {run.id: run.fence for run in (fresh, stepped, resumed)}
        assert len(await side.runs.hand_back(worker, runs, begun=False)) == 3
        started = {run_id for run_id in runs if (await stage.run(run_id))["started_at"] is not None}
        assert started == {stepped.id, resumed.id}, "others had executed these"


async def test_a_cancelled_run_that_is_handed_back_ends(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        (run,) = await stage.running(worker)
        await side.runs.cancel("shop", [run.id])
        assert await side.runs.hand_back(worker, {run.id: run.fence}) == [run.id]
        row = await stage.run(run.id)
        assert (row["status"], row["error"]["reason"]) == ("cancelled", "Cancelled")
        assert await kept_as_a_failure(stage, row)


async def test_a_hand_back_that_waited_for_a_cancel_ends_the_run(database: str) -> None:
    async with staged(database) as stage:
        worker, a, b = await stage.worker(), await stage.held(), await stage.held()
        (run,) = await stage.running(worker)
        await a.runs.cancel("shop", [run.id])
        back = await stage.waits(b, b.runs.hand_back(worker, {run.id: run.fence}))
        await a.commit()
        assert await back == [run.id]
        await b.commit()
        assert await stage.status(run.id) == "cancelled"


# -- intake ----------------------------------------------------------------------------------------------------------------


async def test_simultaneous_twins_lead_to_one_run(database: str) -> None:
    async with staged(database) as stage:
        a, b = await stage.held(), await stage.held()
        first, second = stage.new("order-7"), stage.new("order-7", input=b'{"order": 8}')
        answer = (await a.intake.accept([first]))[first.id]
        twin = await stage.waits(b, b.intake.accept([second]))
        await a.commit()
        assert answer == (first.id, False, False)
        assert (await twin)[second.id] == (first.id, True, True)
        await b.commit()
        assert await _accepted(stage) == {first.id}


async def test_a_twin_of_a_start_that_was_rolled_back_is_the_first(database: str) -> None:
    async with staged(database) as stage:
        a, b = await stage.held(), await stage.held()
        first, second = stage.new("order-7"), stage.new("order-7")
        await a.intake.accept([first])
        twin = await stage.waits(b, b.intake.accept([second]))
        await a.rollback()
        assert (await twin)[second.id] == (second.id, False, False)
        await b.commit()
        assert await _accepted(stage) == {second.id}


async def test_batches_with_keys_in_opposite_orders_do_not_deadlock(database: str) -> None:
    async with staged(database) as stage:
        a, b = await stage.held(), await stage.held()
        blocker = await stage.held()
        names = ["a", "b", "c", "d"]
        await blocker.intake.accept([stage.new("b")])
        # Both meet the key in the middle with whatever they took before it.
        one = await stage.waits(a, _accept_and_commit(a, stage, names))
        two = await stage.waits(b, _accept_and_commit(b, stage, names[::-1]))
        await blocker.commit()
        await asyncio.gather(one, two)
        assert len(await _accepted(stage)) == 4


async def _accept_and_commit(party: Held, stage: Stage, names: list[str]) -> None:
    await party.intake.accept([stage.new(name) for name in names])
    await party.commit()


async def test_an_expired_key_is_taken_over_once(database: str) -> None:
    async with staged(database) as stage:
        side, a, b = await stage.side(), await stage.held(), await stage.held()
        old, new, newer = stage.new("order-7"), stage.new("order-7", input=b"{}"), stage.new("order-7")
        await side.intake.accept([old])
        await stage.query("UPDATE idempotency_keys SET expires_at = now() - interval '1 s'")
        assert (await a.intake.accept([new]))[new.id] == (new.id, False, False)
        twin = await stage.waits(b, b.intake.accept([newer]))
        await a.commit()
        assert (await twin)[newer.id] == (new.id, True, True)
        await b.commit()
        assert await _accepted(stage) == {old.id, new.id}


async def test_keys_of_two_doors_do_not_meet(database: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        api, hook = stage.new("7", trigger="api"), stage.new("7", trigger="github")
        answers = await side.intake.accept([api, hook])
        assert {a.id for a in answers.values()} == {api.id, hook.id}


async def test_a_batch_that_is_sent_twice_starts_its_runs_once(database: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        event = stage.new(event_id=stage.new().id)
        batch = [stage.new("order-7"), stage.new(), event]
        answers = await side.intake.accept(batch)
        assert await side.intake.accept(batch, again=True) == answers
        assert not any(answer.repeated for answer in answers.values()), "it is the same start, not a repeat of it"
        assert await _accepted(stage) == {run.id for run in batch}
        assert await stage.query("SELECT run_id::text FROM trigger_events") == [{"run_id": event.id}]


@pytest.mark.parametrize("key", [None, "order-7"])
async def test_what_was_committed_is_answered_though_the_workflow_changed_since(database: str, key: str | None) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        run = stage.new(key)
        answer = await side.intake.accept([run])  # and the answer is lost
        await side.intake.apply(revision(b"2"))
        assert await side.intake.accept([run], again=True) == answer
        later = stage.new()
        assert await side.intake.accept([later], again=True) == {}, "what did not get in then does not get in now"
        assert await _accepted(stage) == {run.id}


@pytest.mark.parametrize("change", ["suspended", "revised", "deleted"])
async def test_starts_of_a_changed_workflow_are_absent_from_the_answer(database: str, change: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        stale = stage.new("order-7")
        if change == "deleted":
            await stage.query("UPDATE workflows SET deleted_at = now()")
        else:
            await side.intake.apply(revision(b"2" if change == "revised" else b"1", suspended=change == "suspended"))
        assert await side.intake.accept([stale]) == {}
        assert await _accepted(stage) == set()
        assert await stage.query("SELECT 1 FROM idempotency_keys") == [], "the key is still free"


async def _accepted(stage: Stage) -> set[str]:
    return {str(row["id"]) for row in await stage.query("SELECT id FROM runs")}


# -- leaders ---------------------------------------------------------------------------------------------------------------


async def test_of_two_candidates_one_leads(database: str) -> None:
    async with staged(database) as stage:
        a, b = await stage.held(), await stage.held()
        assert await a.upkeep.lead("maintenance", 1, term=10.0)
        other = await stage.waits(b, b.upkeep.lead("maintenance", 2, term=10.0))
        await a.commit()
        assert not await other
        await b.commit()
        assert await a.upkeep.lead("maintenance", 1, term=10.0), "whoever leads renews"


async def test_a_lease_falls_to_another_only_after_its_term(database: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        await side.upkeep.lead("maintenance", 1, term=10.0)
        await stage.query("UPDATE leases SET renewed_at = now() - interval '9 s'")
        assert not await side.upkeep.lead("maintenance", 2, term=10.0)
        await stage.query("UPDATE leases SET renewed_at = now() - interval '11 s'")
        assert await side.upkeep.lead("maintenance", 2, term=10.0)
        assert not await side.upkeep.lead("maintenance", 1, term=10.0)
        await side.upkeep.resign("maintenance", 1)
        assert not await side.upkeep.lead("maintenance", 1, term=10.0), "nobody resigns for another"
        await side.upkeep.resign("maintenance", 2)
        assert await side.upkeep.lead("maintenance", 1, term=10.0)


async def test_two_leaders_delete_the_same_runs_once(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        gone, kept = await stage.running(worker, 2)
        old = ending(gone)
        assert old.end is not None
        old.end.retain = -HOUR / SECOND
        await side.runs.flush(worker, [old, ending(kept)])
        a, b = await stage.held(), await stage.held()
        assert await a.upkeep.delete_runs([gone.id, kept.id]) == 1
        second = await stage.waits(b, b.upkeep.delete_runs([gone.id, kept.id]))
        await a.commit()
        assert await second == 0
        await b.commit()
        assert await _accepted(stage) == {kept.id}
        assert await stage.query("SELECT DISTINCT run_id::text FROM run_steps") == [{"run_id": kept.id}]
