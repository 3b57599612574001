"""Retries, parking and the times of a run."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import orjson
import pytest
from engine_life import World, nothing, scene, until
from engine_specs import document, effect, failure, retry, scripted, shown, value
from virtual_time import EPOCH, virtual_time

from stepwell.domain.action import Call
from stepwell.domain.retry import NEVER
from stepwell.domain.states import StepStatus
from stepwell.engine.ports import AttemptRecord


@virtual_time
async def test_a_short_back_off_keeps_the_slot_and_a_long_one_parks_the_run() -> None:
    world = scripted(failure(), failure(), failure(), 1)
    spec = {"steps": [effect("a", retry=retry(3, "1s"))]}
    async with scene(spec, world) as s:
        await s.submit()
        await until(lambda: len(world.calls) == 2)
        assert s.dispatcher.busy == 1
        await until(lambda: len(world.calls) == 3)  # after 1 and 2 seconds, within the slot
        await until(lambda: s.database.rows["r1"].status == "waiting")
        assert s.database.rows["r1"].due_at == EPOCH + (1 + 2 + 4) * 1_000_000
        assert s.dispatcher.busy == 0
        assert s.dispatcher.active == {}
        records = s.database.attempts()
        assert [(r.attempt, r.status, r.retry_at) for r in records] == [
            (1, "failed", EPOCH + 1_000_000),
            (2, "failed", EPOCH + 3_000_000),
            (3, "failed", EPOCH + 7_000_000),
        ]
        await asyncio.sleep(4)
        s.database.wake("r1")
        await s.offer("r1")
        assert await s.ended() == "succeeded"
        assert [call.attempt for call, _ in world.calls] == [1, 2, 3, 4]
        assert len({orjson.dumps(body) for _, body in world.calls}) == 1


@virtual_time
async def test_a_run_woken_early_waits_for_its_retry() -> None:
    world = scripted(failure(retry_after=60.0), 1)
    async with scene({"steps": [effect("a", retry=retry(3))]}, world) as s:
        await s.submit()
        await until(lambda: s.database.rows["r1"].status == "waiting")
        assert s.database.rows["r1"].due_at == EPOCH + 60_000_000
        s.database.wake("r1")
        await s.offer("r1")
        await asyncio.sleep(10)
        assert s.database.rows["r1"].claims == 2
        assert s.database.rows["r1"].status == "waiting"
        assert len(world.calls) == 1


@virtual_time
async def test_a_wake_while_the_run_parks_is_not_lost() -> None:
    world = scripted(failure(retry_after=60.0), 1)
    async with scene({"steps": [effect("a", retry=retry(3))]}, world) as s:
        s.store.latency = lambda name: (1.0, 0.0) if name == "flush" else (0.0, 0.0)
        await s.submit()
        await until(lambda: len(s.store.calls) and s.store.calls[-1] == "flush")
        s.database.rows["r1"].wakes += 1
        await until(lambda: s.life.left)
        assert s.life.left[0][1].parked == "queued"
        assert [run.id for run in s.queue.added] == ["r1", "r1"]  # offered again by the worker itself


@virtual_time
async def test_a_wake_that_the_run_saw_does_not_keep_it_from_parking_later() -> None:
    world = scripted(1, failure(retry_after=60.0))
    async with scene({"steps": [effect("a"), effect("b", retry=retry(1))]}, world) as s:
        s.store.latency = lambda name: (1.0, 0.0) if name == "flush" else (0.0, 0.0)
        await s.submit()
        await until(lambda: "flush" in s.store.calls)
        s.database.rows["r1"].wakes += 1
        await until(lambda: s.database.rows["r1"].status == "waiting", within=10)
        assert s.database.rows["r1"].claims == 1


@virtual_time
async def test_a_retry_is_not_held_up_by_a_step_that_started_meanwhile() -> None:
    began: dict[str, list[float]] = {"a": [], "b": [], "c": []}

    async def perform(call: Call, body: Any) -> Any:
        began[call.step].append(asyncio.get_running_loop().time())
        if call.step == "a" and call.attempt == 1:
            await asyncio.sleep(0.1)
            raise failure()
        if call.step == "b":
            await asyncio.sleep(0.2)
        if call.step == "c":
            await asyncio.sleep(20)

    spec = {"steps": [effect("a", retry=retry(1, "1s")), effect("b", needs=[]), effect("c", needs=["b"])]}
    async with scene(spec, World(perform)) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
    assert began["a"] == [0.0, pytest.approx(1.1)]
    assert began["c"] == [pytest.approx(0.2)]


@virtual_time
async def test_a_retry_without_any_pause_is_made_at_once() -> None:
    class Flaky:
        name: ClassVar[str] = "transform"
        effect: ClassVar[bool] = False

        def __init__(self) -> None:
            self.left = 3

        def compile(self, spec: Any, compiler: Any) -> Any:
            return self

        def retry(self, spec: Any) -> Any:
            return NEVER

        def shape(self, spec: Any, given: Any) -> None:
            return None

        def run(self, value: Any, context: Any) -> Any:
            self.left -= 1
            if self.left:
                raise failure()
            return "done"

    spec = {"steps": [value("a", 1, retry=retry(3, "1ms"))]}
    async with scene(spec, actions={"transform": Flaky()}) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert [r.status for r in s.database.attempts()] == ["failed", "failed", "succeeded"]


@virtual_time
async def test_what_is_not_to_be_retried_fails_at_once() -> None:
    world = scripted(failure(kind="Network"))
    async with scene({"steps": [effect("a", retry=retry(5, retryOn=["Timeout"]))]}, world) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert len(world.calls) == 1


@virtual_time
async def test_the_runs_timeout_aborts_a_call_in_flight() -> None:
    aborted = []

    async def perform(call: Call, body: Any) -> Any:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            aborted.append(call.step)
            raise

    async with scene({"steps": [effect("a")], "timeout": "5s"}, World(perform)) as s:
        await s.submit()
        assert await s.ended() == "timed_out"
        row = s.database.rows["r1"]
        assert row.finished_at == pytest.approx(EPOCH + 5_000_000, abs=10_000)
        assert row.end is not None
        assert document(row.end.error) == {"reason": "RunTimedOut", "message": "the run took longer than 5 s"}
        assert aborted == ["a"]


@virtual_time
async def test_a_run_that_waited_too_long_in_the_queue_starts_nothing() -> None:
    world = World(nothing)
    async with scene({"steps": [effect("a")], "timeout": "5s"}, world) as s:
        s.database.add("r1")
        await asyncio.sleep(6)
        await s.offer("r1")
        assert await s.ended() == "timed_out"
        assert world.calls == []


@virtual_time
async def test_a_park_ends_no_later_than_the_runs_timeout() -> None:
    world = scripted(failure(retry_after=600.0))
    async with scene({"steps": [effect("a", retry=retry(1))], "timeout": "1m"}, world) as s:
        await s.submit()
        await until(lambda: s.database.rows["r1"].status == "waiting")
        assert s.database.rows["r1"].due_at == EPOCH + 60_000_000


@virtual_time
async def test_attempts_are_counted_right_where_the_clocks_of_two_workers_differ() -> None:
    """The second attempt was recorded under a clock that is behind that of the first."""
    world = scripted(1)
    async with scene({"steps": [effect("a", retry=retry(5)), value("b", 1)]}, world) as s:
        s.database.add("r1", claims=2)
        first = AttemptRecord("a", 1, StepStatus.FAILED, EPOCH, EPOCH - 1_000, EPOCH - 1_000, b'"$run"', error=b"{}")
        second = AttemptRecord("a", 2, StepStatus.FAILED, EPOCH, EPOCH - 9_000, EPOCH + 500, b'"$run"', error=b"{}")
        s.database.records["r1"] = {("a", 1): (1, first), ("a", 2): (2, second)}
        await s.offer("r1")
        assert await s.ended() == "succeeded"
        assert [call.attempt for call, _ in world.calls] == [3]
        assert [(r.step, r.attempt) for r in s.database.attempts()] == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]


@virtual_time
async def test_a_result_stands_whatever_an_earlier_attempt_announced() -> None:
    world = World(nothing)
    async with scene({"steps": [effect("a", retry=retry(5)), value("b", "{{ input }}")]}, world) as s:
        s.database.add("r1", claims=2)
        first = AttemptRecord(
            "a", 1, StepStatus.FAILED, EPOCH, EPOCH - 1_000, EPOCH + 60_000_000, b'"$run"', error=b"{}"
        )
        second = AttemptRecord("a", 2, StepStatus.SUCCEEDED, EPOCH, EPOCH - 9_000, None, b'"$run"', output=b"7")
        s.database.records["r1"] = {("a", 1): (1, first), ("a", 2): (2, second)}
        await s.offer("r1")
        assert await s.ended(within=1) == "succeeded"
        assert world.calls == []
        assert shown(s.database.attempts())["b"] == 7
