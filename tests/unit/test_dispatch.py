"""The dispatcher: slots, claims and their lost answers, the way without a queue, suspects, offers, drains."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from engine_life import Life, World, actions_of, nothing, scene, stored, until
from engine_specs import effect, failure, retry, scripted, value
from memory_store import Database, MemoryQueue
from virtual_time import VirtualClock, turns, virtual_time

from stepwell.domain.errors import ConflictError, DataRefusedError, UnavailableError
from stepwell.engine import dispatch

if TYPE_CHECKING:
    from stepwell.domain.action import Call

PURE = {"steps": [value("a", 1)]}
CALL = {"steps": [effect("a")]}
PURE_THEN_CALL = {"steps": [value("a", 1), effect("b")]}


def lasting(seconds: float) -> World:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(seconds)

    return World(perform)


# -- slots and claims ----------------------------------------------------------------------------------------------------


@virtual_time
async def test_no_more_runs_are_taken_than_slots_are_free() -> None:
    world = lasting(1.0)
    async with scene(CALL, world, slots=3) as s:
        for n in range(10):
            await s.submit(f"r{n}")
        most = 0
        while not all(row.final for row in s.database.rows.values()):
            most = max(most, s.dispatcher.busy)
            await asyncio.sleep(0.01)
        assert most == 3
        assert len(world.calls) == 10
        assert max(s.queue.taken) <= 3


@virtual_time
async def test_a_run_whose_last_flush_is_awaited_holds_no_slot() -> None:
    async with scene(PURE, slots=1) as s:
        answer = s.store.hold("flush")
        await s.submit("r1")
        await s.submit("r2")
        await until(lambda: s.database.rows["r2"].status == "running")
        assert s.dispatcher.busy == 0
        assert set(s.dispatcher.active) == {"r1", "r2"}
        answer.set()
        assert await s.ended("r2") == "succeeded"
        assert s.dispatcher.active == {}


@virtual_time
async def test_nothing_is_taken_while_too_many_runs_wait_for_their_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MAX_BACKLOG", 2)
    async with scene(PURE, slots=2) as s:
        answer = s.store.hold("flush")
        for n in range(20):
            await s.submit(f"r{n}")
        await asyncio.sleep(60)
        assert len(s.dispatcher.active) <= 2 + 2 + 3
        answer.set()
        await until(lambda: all(row.final for row in s.database.rows.values()))


@virtual_time
async def test_a_shorter_backlog_is_noticed_though_no_run_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MAX_BACKLOG", 2)
    world = lasting(100.0)
    async with scene(PURE_THEN_CALL, world, slots=50) as s:
        answer = s.store.hold("flush")
        await s.submit("r0")
        await until(lambda: "flush" in s.store.calls)
        for n in range(1, 10):
            await s.submit(f"r{n}")
        await until(lambda: len(s.dispatcher.active) >= 4)
        await s.submit("late")
        await asyncio.sleep(30)
        assert s.database.rows["late"].status == "queued"
        answer.set()
        await asyncio.sleep(2)
        assert len(world.calls) == 11
        assert s.database.rows["late"].status == "running"


@virtual_time
async def test_the_answer_to_a_claim_that_was_lost_is_read_back() -> None:
    world = World(nothing)
    async with scene(CALL, world) as s:
        s.store.breaks("claim", after=True)
        s.store.breaks("claimed", times=3)
        await s.submit()
        assert await s.ended() == "succeeded"
        assert s.store.calls.count("claimed") == 4
        assert len(world.calls) == 1
        assert s.database.rows["r1"].claims == 1


@virtual_time
async def test_a_claim_that_never_happened_is_read_back_as_nothing() -> None:
    async with scene(CALL) as s:
        s.store.breaks("claim")
        await s.submit()
        await until(lambda: "claimed" in s.store.calls)
        assert s.database.rows["r1"].status == "queued"
        await s.offer("r1")
        assert await s.ended() == "succeeded"


@pytest.mark.parametrize("error", [ConflictError("deadlock"), DataRefusedError("what?")])
@virtual_time
async def test_a_claim_that_fails_otherwise_ends_nothing(error: Exception) -> None:
    async with scene(CALL) as s:
        s.store.breaks("claim", error)
        await s.submit()
        await until(lambda: "claim" in s.store.calls)
        await s.offer("r1")
        assert await s.ended() == "succeeded"


@virtual_time
async def test_a_worker_that_may_be_taken_for_dead_claims_nothing() -> None:
    async with scene(CALL) as s:
        s.life.trust.given = False
        await s.submit()
        await asyncio.sleep(30)
        assert s.store.calls == []
        s.life.trust.given = True
        assert await s.ended() == "succeeded"


@virtual_time
async def test_a_claim_that_was_long_ago_is_confirmed_before_an_effect_starts() -> None:
    world = World(nothing)
    async with scene(CALL, world) as s:
        s.store.latency = lambda name: (0.0, 3.0) if name == "claim" else (0.0, 0.0)
        await s.submit()
        await until(lambda: s.database.rows["r1"].status == "running")
        s.database.cancel("r1")
        assert await s.ended() == "cancelled"
        assert world.calls == []


@virtual_time
async def test_a_claimed_run_waits_for_its_history_through_an_outage() -> None:
    world = scripted(failure(retry_after=30.0), 1)
    async with scene({"steps": [effect("a", retry=retry(1))]}, world) as s:
        await s.submit()
        await until(lambda: s.database.rows["r1"].status == "waiting")
        await asyncio.sleep(30)
        s.database.wake("r1")
        s.store.breaks("attempts", times=4)
        await s.offer("r1")
        assert await s.ended() == "succeeded"
        assert [call.attempt for call, _ in world.calls] == [1, 2]


# -- revisions that do not run here ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"steps": [{"name": "a", "transform": {"value": 1}}], "ofTomorrow": True}, id="unknown field"),
        pytest.param({"steps": [{"name": "a", "workflow": {"name": "b"}}]}, id="unknown action"),
        pytest.param(None, id="no such revision"),
    ],
)
@virtual_time
async def test_a_revision_that_does_not_run_here_is_handed_back_and_not_claimed_again(spec: Any) -> None:
    async with scene(PURE) as s:
        if spec is not None:
            s.database.revisions[2] = stored(spec, 2)
        await s.submit("other", revision_id=2)
        await s.submit("mine")
        await until(lambda: s.database.rows["other"].claims == 1 and s.database.rows["other"].status == "queued")
        await s.offer("other")
        await asyncio.sleep(10)
        assert s.database.rows["other"].claims == 1
        assert s.store.not_begun == {"other"}, "it goes on waiting for its start"
        assert s.database.rows["mine"].status == "succeeded"
        assert s.store.unsupported == {2}


# -- without a queue --------------------------------------------------------------------------------------------------------


@virtual_time
async def test_without_the_queue_runs_come_straight_from_the_database() -> None:
    async with scene(PURE, slots=2) as s:
        s.queue.away = True
        for n in range(5):
            s.database.add(f"r{n}")
        await until(lambda: all(row.final for row in s.database.rows.values()))
        assert s.store.calls.count("claim") == 0
        s.queue.away = False
        await asyncio.sleep(5)
        await s.submit("later")
        assert await s.ended("later", within=5) == "succeeded"
        assert "claim" in s.store.calls


@virtual_time
async def test_without_the_queue_an_idle_database_is_asked_a_few_times_a_second() -> None:
    async with scene(PURE) as s:
        s.queue.away = True
        await asyncio.sleep(60)
        assert 60 <= len(s.store.calls) <= 240


# -- suspects ---------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_suspects_of_the_first_time_are_executed_together_as_far_as_slots_are_free() -> None:
    async with scene(CALL, lasting(10.0), slots=3) as s:
        await s.submit("busy")
        await until(lambda: s.dispatcher.busy == 1)
        for n in range(3):
            s.database.add(f"r{n}", suspicion=1, claims=1)
        s.database.add("later", suspicion=2, claims=2)
        await s.dispatcher.suspects.take()
        await s.dispatcher.suspects.take()
        assert [s.database.rows[name].status for name in ("r0", "r1", "r2", "later")] == ["running"] * 2 + [
            "queued"
        ] * 2
        assert await s.ended("r0") == await s.ended("r1") == "succeeded"
        await turns()
        await s.dispatcher.suspects.take()
        assert [s.database.rows[name].status for name in ("r2", "later")] == ["running", "queued"]


@virtual_time
async def test_a_suspect_finds_a_place_though_every_slot_is_held() -> None:
    async with scene(CALL, lasting(10.0), slots=1) as s:
        await s.submit("busy")
        await until(lambda: s.dispatcher.busy == 1)
        s.database.add("suspect", suspicion=1, claims=1)
        assert await s.dispatcher.suspects.take()
        assert s.database.rows["suspect"].status == "running"


@virtual_time
async def test_suspects_whose_workers_died_again_are_executed_one_at_a_time() -> None:
    async with scene(CALL, lasting(10.0)) as s:
        for n in range(3):
            s.database.add(f"r{n}", suspicion=2, claims=2)
        await s.dispatcher.suspects.take()
        await s.dispatcher.suspects.take()
        assert [row.status for row in s.database.rows.values()] == ["running", "queued", "queued"]
        assert await s.ended("r0") == "succeeded"
        await turns()
        await s.dispatcher.suspects.take()
        assert [row.status for row in s.database.rows.values()] == ["succeeded", "running", "queued"]


@virtual_time
async def test_a_suspect_that_moved_on_makes_room_for_the_next() -> None:
    spec = {"steps": [effect("quick"), effect("slow")]}

    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(60 if call.step == "slow" else 0)

    async with scene(spec, World(perform)) as s:
        for n in range(2):
            s.database.add(f"r{n}", suspicion=2, claims=2)
        await s.dispatcher.suspects.take()
        await until(lambda: s.database.attempts("r0"))
        await turns()
        await s.dispatcher.suspects.take()
        assert [row.status for row in s.database.rows.values()] == ["running", "running"]


@virtual_time
async def test_an_offered_suspect_is_not_claimed_with_the_others() -> None:
    async with scene(PURE) as s:
        await s.submit("suspect", suspicion=1, claims=1)
        await s.submit("other")
        assert await s.ended("other") == "succeeded"
        assert s.database.rows["suspect"].status == "queued"


# -- effects in flight --------------------------------------------------------------------------------------------------------


@virtual_time
async def test_effects_wait_for_a_place_and_are_confirmed_again_after_it() -> None:
    world = lasting(5.0)
    async with scene(CALL, world) as s:
        s.dispatcher._effects = asyncio.Semaphore(1)
        for n in range(3):
            await s.submit(f"r{n}")
        await asyncio.sleep(1)
        assert [call.run_id for call, _ in world.calls] == ["r0"]
        s.database.cancel("r1")  # nobody tells the worker
        await until(lambda: all(row.final for row in s.database.rows.values()))
        assert [call.run_id for call, _ in world.calls] == ["r0", "r2"]
        assert [row.status for row in s.database.rows.values()] == ["succeeded", "cancelled", "succeeded"]


@virtual_time
async def test_an_effect_that_waited_for_a_place_does_not_start_without_trust_or_while_draining() -> None:
    world = lasting(0.5)
    async with scene(CALL, world) as s:
        s.dispatcher._effects = asyncio.Semaphore(1)
        for n in range(3):
            await s.submit(f"r{n}")
        await until(lambda: world.calls)
        s.life.trust.given = False
        await asyncio.sleep(10)
        assert len(world.calls) == 1
        s.life.trust.given = True
        await until(lambda: len(world.calls) == 2)
        await s.dispatcher.drain(10)
        assert len(world.calls) == 2
        assert sorted(row.status for row in s.database.rows.values()) == ["queued", "succeeded", "succeeded"]


@virtual_time
async def test_an_effect_aborted_before_its_first_turn_leaves_nothing_behind() -> None:
    world = World(nothing)
    async with scene(CALL, world) as s:
        s.database.add("r1")
        claim = asyncio.ensure_future(s.store.claim(s.life.worker, ["r1"], 1))
        runs = await claim
        s.database.cancel("r1")
        await s.dispatcher._begin(runs, s.dispatcher.micros())
        s.dispatcher.cancel(["r1"])
        assert await s.ended() == "cancelled"
        assert world.calls == []


@virtual_time
async def test_a_defect_that_ends_a_task_is_told() -> None:
    async def defect() -> None:
        raise LookupError("a defect")

    async with scene(CALL) as s:
        s.dispatcher.spawn(defect())
        with pytest.raises(LookupError):
            await s.dispatcher.broken()


# -- runs that leave --------------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_lost_run_leaves_once_whatever_the_journal_says_later() -> None:
    async with scene(CALL) as s:
        s.store.latency = lambda name: (0.0, 5.0) if name == "flush" else (0.0, 0.0)
        await s.submit()
        await until(lambda: s.database.rows["r1"].final)
        s.dispatcher.lost(["r1", "unknown"])
        assert s.life.left == [("r1", None)]
        await asyncio.sleep(10)
        assert len(s.life.left) == 1


@virtual_time
async def test_a_run_claimed_anew_before_its_parks_answer_came_takes_the_place_of_the_old() -> None:
    world = scripted(failure(retry_after=30.0), 1)
    async with scene({"steps": [effect("a", retry=retry(1))]}, world, slots=2) as s:
        s.store.breaks("flush", after=True)
        s.store.breaks("flush", times=3)
        await s.submit()
        await until(lambda: s.database.rows["r1"].status == "waiting")
        s.database.wake("r1")
        await s.offer("r1")
        await until(lambda: s.database.rows["r1"].claims == 2)
        await turns()
        assert s.dispatcher.active["r1"].run.fence == 2
        assert s.dispatcher.busy == 0
        assert [kept for _, kept in s.life.left] == [None]
        await asyncio.sleep(5)
        assert s.database.rows["r1"].status == "waiting"
        assert len(world.calls) == 1


@virtual_time
async def test_what_left_is_not_kept_in_memory() -> None:
    async with scene(PURE_THEN_CALL) as s:
        for n in range(5):
            await s.submit(f"r{n}")
        await until(lambda: all(row.final for row in s.database.rows.values()))
        await turns()
        d = s.dispatcher
        assert (d.active, d._busy, d.suspects.here, d._background, d.journal.backlog) == ({}, set(), set(), set(), 0)


# -- draining -----------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_drained_worker_takes_nothing_more_and_owns_nothing() -> None:
    async with scene(CALL, lasting(5.0), slots=2) as s:
        for n in range(6):
            await s.submit(f"r{n}")
        await asyncio.sleep(1)
        await s.dispatcher.drain(60)
        await asyncio.sleep(60)
        statuses = [row.status for row in s.database.rows.values()]
        assert statuses == ["succeeded"] * 2 + ["queued"] * 4
        assert s.life.tasks[0].done()


@virtual_time
async def test_a_drain_hands_back_what_does_not_end_in_time_and_offers_it() -> None:
    aborted = []

    async def perform(call: Call, body: Any) -> Any:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            aborted.append(call.run_id)
            raise

    async with scene(CALL, World(perform)) as s:
        await s.submit()
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await s.dispatcher.drain(7.0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(7.0, abs=0.1)
        assert s.database.rows["r1"].status == "queued"
        assert s.database.attempts() == []
        assert aborted == ["r1"]
        assert list(s.queue.ids) == ["r1"]
        assert s.dispatcher.active == {}


@virtual_time
async def test_a_drain_waits_for_a_claim_that_is_under_way() -> None:
    async with scene(CALL) as s:
        s.store.latency = lambda name: (0.5, 2.0) if name == "claim" else (0.0, 0.0)
        await s.submit()
        await until(lambda: "claim" in s.store.calls)
        await s.dispatcher.drain(60)
        assert s.database.rows["r1"].status == "queued"
        assert s.database.rows["r1"].claims == 1
        assert s.dispatcher.active == {}


@virtual_time
async def test_a_drain_without_runs_ends_at_once() -> None:
    async with scene(CALL) as s:
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await s.dispatcher.drain(60)
        assert asyncio.get_running_loop().time() == began


@virtual_time
async def test_a_run_cancelled_during_the_drain_ends() -> None:
    async with scene(CALL, lasting(3.0)) as s:
        await s.submit()
        await asyncio.sleep(1)
        drain = asyncio.ensure_future(s.dispatcher.drain(60))
        await turns()
        s.database.cancel("r1")
        await drain
        assert s.database.rows["r1"].status == "cancelled"


@virtual_time
async def test_a_drain_waits_out_an_outage_of_the_store() -> None:
    async with scene(PURE) as s:
        s.store.breaks("flush", UnavailableError("down"), times=4)
        await s.submit()
        await until(lambda: s.dispatcher.active)
        await s.dispatcher.drain(60)
        assert s.database.rows["r1"].status in {"succeeded", "queued"}
        assert s.dispatcher.active == {}


# -- two workers --------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_two_workers_share_the_work_and_nothing_is_done_twice() -> None:
    database = Database(VirtualClock().micros)
    database.revisions[1] = stored(PURE_THEN_CALL)
    queue, world = MemoryQueue(), World(nothing)
    lives = [Life(database, queue, actions_of(world), slots=2) for _ in range(2)]
    for life in lives:
        life.store.latency = lambda _: (0.001, 0.001)
        life.start()
    for n in range(20):
        database.add(f"r{n}")
        queue.ids[f"r{n}"] = None
    await until(lambda: all(row.final for row in database.rows.values()))
    for life in lives:
        assert life.failed() is None
        await life.kill()
    assert sorted(call.run_id for call, _ in world.calls) == sorted(database.rows)
    assert {row.worker for row in database.rows.values()} == {life.worker for life in lives}
