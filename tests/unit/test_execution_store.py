"""The answers of the store: refusals, durability, lost runs, cancels, draining, outages."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from engine_life import World, nothing, scene, until
from engine_specs import document, effect, failure, retry, scripted, shown, value
from virtual_time import EPOCH, turns, virtual_time

from stepwell.domain.action import Call
from stepwell.domain.errors import UnavailableError
from stepwell.engine.results import Results

# -- the store's answers -------------------------------------------------------------------------------------------


@virtual_time
async def test_refused_records_fail_the_run_and_are_dropped() -> None:
    spec = {"steps": [value("a", 1), value("b", 2)]}
    async with scene(spec) as s:
        s.store.poison.add("r1/b")
        await s.submit("r2")
        await s.submit()
        assert await s.ended() == "failed"
        assert await s.ended("r2") == "succeeded"
        assert s.database.attempts() == []
        end = s.database.rows["r1"].end
        assert end is not None
        assert document(end.error) == {
            "reason": "RecordRefused",
            "message": "the result could not be stored: a row was refused",
        }


@virtual_time
async def test_a_run_whose_very_end_is_refused_leaves_the_worker_without_a_loop() -> None:
    async with scene({"steps": [value("a", 1)]}) as s:
        s.store.poison.add("r1")
        await s.submit()
        await until(lambda: s.life.left)
        assert s.life.left == [("r1", None)]
        assert s.store.calls.count("flush") == 2
        assert s.dispatcher.active == {}
        assert s.dispatcher.busy == 0


@virtual_time
async def test_an_effect_waits_until_its_pure_predecessors_are_durable() -> None:
    world = World(nothing)
    async with scene({"steps": [value("a", 1), effect("b")]}, world) as s:
        answer = s.store.hold("flush")
        await s.submit()
        await asyncio.sleep(1)
        assert s.database.attempts()[0].step == "a"
        assert world.calls == []
        answer.set()
        assert await s.ended() == "succeeded"


@virtual_time
async def test_independent_effects_do_not_wait_for_each_others_results() -> None:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(10 if call.step == "slow" else 1)

    world = World(perform)
    async with scene({"steps": [effect("slow"), effect("quick", needs=[]), effect("then")]}, world) as s:
        await s.submit()
        await asyncio.sleep(5)
        assert [call.step for call, _ in world.calls] == ["slow", "quick", "then"]
        assert await s.ended() == "succeeded"


@virtual_time
async def test_a_worker_that_may_not_act_starts_no_effect_until_it_may() -> None:
    world = World(nothing)
    async with scene({"steps": [value("a", 1), effect("b")]}, world) as s:
        answer = s.store.hold("flush")
        await s.submit()
        await until(s.database.attempts)
        s.life.trust.given = False
        answer.set()
        await asyncio.sleep(30)
        assert world.calls == []
        assert [r.step for r in s.database.attempts()] == ["a"]
        s.life.trust.given = True
        assert await s.ended() == "succeeded"
        assert s.store.calls.count("flush") <= 4


@virtual_time
async def test_a_run_that_another_took_is_dropped_and_its_calls_are_aborted() -> None:
    aborted = []

    async def perform(call: Call, body: Any) -> Any:
        if call.step == "quick":
            return None
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            aborted.append(call.step)
            raise

    async with scene({"steps": [effect("slow"), effect("quick", needs=[])]}, World(perform)) as s:
        s.store.latency = lambda name: (1.0, 0.0) if name == "flush" else (0.0, 0.0)
        await s.submit()
        await until(lambda: "flush" in s.store.calls)
        s.database.rows["r1"].fence = 99
        await until(lambda: s.life.left)
        await turns()
        assert s.life.left == [("r1", None)]
        assert aborted == ["slow"]
        assert s.database.attempts() == []


# -- cancels -------------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_cancel_aborts_calls_in_flight_and_starts_nothing() -> None:
    aborted = []

    async def perform(call: Call, body: Any) -> Any:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            aborted.append(call.step)
            raise

    world = World(perform)
    async with scene({"steps": [effect("a"), effect("b")]}, world) as s:
        await s.submit()
        await until(lambda: world.calls)
        s.database.cancel("r1")
        s.dispatcher.cancel(["r1", "unknown"])
        assert await s.ended(within=1) == "cancelled"
        assert aborted == ["a"]
        assert [call.step for call, _ in world.calls] == ["a"]
        assert s.database.attempts() == []


@virtual_time
async def test_a_cancel_that_a_flush_reports_stops_what_would_follow() -> None:
    world = World(nothing)
    async with scene({"steps": [effect("a"), effect("b")]}, world) as s:
        s.store.latency = lambda name: (1.0, 0.0) if name == "flush" else (0.0, 0.0)
        await s.submit()
        await until(lambda: "flush" in s.store.calls)
        s.database.cancel("r1")
        assert await s.ended() == "cancelled"
        assert [call.step for call, _ in world.calls] == ["a"]


@virtual_time
async def test_a_cancel_voids_a_success_that_was_not_committed() -> None:
    async with scene({"steps": [value("a", 1)]}) as s:
        s.store.latency = lambda name: (1.0, 0.0) if name == "flush" else (0.0, 0.0)
        await s.submit()
        await until(lambda: "flush" in s.store.calls)
        s.database.cancel("r1")
        s.dispatcher.cancel(["r1"])
        assert await s.ended() == "cancelled"
        assert [r.step for r in s.database.attempts()] == ["a"]
        assert s.life.left[0][1].ended
        assert len(s.life.left) == 1


@virtual_time
async def test_a_cancel_between_two_attempts_ends_the_run_without_another() -> None:
    world = scripted(failure(), 1)
    async with scene({"steps": [effect("a", retry=retry(1, "2s"))]}, world) as s:
        await s.submit()
        await until(s.database.attempts)
        s.database.cancel("r1")
        s.dispatcher.cancel(["r1"])
        assert await s.ended(within=1) == "cancelled"
        assert len(world.calls) == 1


@virtual_time
async def test_a_cancel_while_the_run_parks_ends_it() -> None:
    world = scripted(failure(retry_after=60.0), 1)
    async with scene({"steps": [effect("a", retry=retry(1))]}, world) as s:
        s.store.latency = lambda name: (1.0, 0.0) if name == "flush" else (0.0, 0.0)
        await s.submit()
        await until(lambda: "flush" in s.store.calls)
        s.database.cancel("r1")
        assert await s.ended(within=5) == "cancelled"
        assert len(world.calls) == 1


@virtual_time
async def test_a_run_claimed_after_its_cancel_starts_nothing() -> None:
    world = World(nothing)
    async with scene({"steps": [effect("a")]}, world) as s:
        s.database.add("r1", cancelled_at=EPOCH)
        await s.offer("r1")
        assert await s.ended() == "cancelled"
        assert world.calls == []


@virtual_time
async def test_an_action_that_swallows_its_cancellation_changes_nothing_afterwards() -> None:
    done = asyncio.Event()

    async def perform(call: Call, body: Any) -> Any:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(5)
        done.set()
        return "late"

    world = World(perform)
    async with scene({"steps": [effect("a"), effect("b")]}, world) as s:
        await s.submit()
        await until(lambda: world.calls)
        s.database.cancel("r1")
        s.dispatcher.cancel(["r1"])
        assert await s.ended(within=1) == "cancelled"
        await done.wait()
        await turns()
        assert s.database.attempts() == []
        assert len(s.life.left) == 1
        assert s.dispatcher.journal.backlog == 0


# -- draining, turns and defects -----------------------------------------------------------------------------------


@virtual_time
async def test_a_draining_worker_lets_a_call_end_records_it_and_hands_the_run_back() -> None:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(5)
        return call.step

    world = World(perform)
    async with scene({"steps": [effect("a"), value("b", "{{ input }}"), effect("c")]}, world) as s:
        await s.submit()
        await until(lambda: world.calls)
        await s.dispatcher.drain(60)
        assert s.database.rows["r1"].status == "queued"
        assert shown(s.database.attempts()) == {"a": "a", "b": "a"}
        assert [call.step for call, _ in world.calls] == ["a"]
        assert s.dispatcher.active == {}


@virtual_time
async def test_a_draining_worker_with_a_call_in_flight_does_not_ask_the_store_again_and_again() -> None:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(10 if call.step == "slow" else 1)

    async with scene({"steps": [effect("slow"), effect("quick", needs=[]), effect("then")]}, World(perform)) as s:
        await s.submit()
        await asyncio.sleep(0.5)
        await s.dispatcher.drain(60)
        assert s.database.rows["r1"].status == "queued"
        assert s.store.calls.count("flush") == 2


@virtual_time
async def test_long_pure_work_lets_the_loop_turn() -> None:
    """Every step takes a millisecond of the clock; other work comes in between."""
    spec = {"steps": [value(f"s{n}", n, needs=[]) for n in range(40)]}
    async with scene(spec) as s:
        clock = s.dispatcher._clock
        spent = [0]
        original = clock.micros

        def micros() -> int:
            spent[0] += 500
            return original() + spent[0]

        clock.micros = micros  # type: ignore[method-assign]
        await s.submit()
        seen: list[int] = []
        while not s.life.left:
            active = s.dispatcher.active.get("r1")
            if active is not None:
                seen.append(active.results.settled.bit_count())
            await asyncio.sleep(0)
        steps = [after - before for before, after in itertools.pairwise(seen)]
        assert max(steps) <= 15  # a slice after the timer, and one after a flush
        assert s.database.rows["r1"].status == "succeeded"


class BrokenResults(Results):
    __slots__ = ()

    def input_reference(self, step: Any) -> Any:
        raise LookupError("a defect")


@virtual_time
async def test_a_defect_of_the_engine_fails_the_run_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with scene({"steps": [value("a", 1), effect("b"), value("c", 2)]}) as s:
        s.store.latency = lambda name: (1.0, 0.0) if name == "flush" else (0.0, 0.0)
        await s.submit()
        await s.submit("r2")
        await until(lambda: "r1" in s.dispatcher.active)
        s.dispatcher.active["r1"].results.__class__ = BrokenResults
        assert await s.ended() == "failed"
        assert await s.ended("r2") == "succeeded"
        end = s.database.rows["r1"].end
        assert end is not None
        assert document(end.error)["reason"] == "InternalError"
        assert "run r1 cannot go on" in caplog.text


@virtual_time
async def test_an_outage_in_mid_run_is_waited_out_and_nothing_runs_twice() -> None:
    world = World(nothing)
    async with scene({"steps": [effect("a"), effect("b")]}, world) as s:
        s.store.breaks("flush", UnavailableError("down"), times=5)
        s.store.breaks("flush", UnavailableError("down"), after=True)
        await s.submit()
        assert await s.ended() == "succeeded"
        assert [call.step for call, _ in world.calls] == ["a", "b"]
