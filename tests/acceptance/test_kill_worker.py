"""Workers that are killed, stopped and told to go: what was accepted ends once, whatever they were doing."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import drills
import pytest
from waiting import eventually

if TYPE_CHECKING:
    from drills import System, WorkerProcess

POINTS = ["before_effect", "after_effect_before_flush", "before_flush", "after_flush_before_answer"]


async def take_over(system: System, victim: WorkerProcess) -> None:
    """Another worker does what the victim left; nothing is left to the dead."""
    await system.worker()
    await system.over()
    assert not victim.running


async def test_a_step_in_flight_when_its_worker_is_killed_runs_again_with_the_same_request(
    database: str, valkey_server: str
) -> None:
    async with drills.drill(database, valkey_server) as system:
        victim = await system.worker()
        await system.ended(await system.start(10))
        system.receiver.open.clear()
        ids = await system.start(10)
        await eventually(lambda: system.receiver.holding == 10)
        victim.signal(signal.SIGKILL)
        await victim.ended()
        await system.struck("kill -9 with ten calls in flight", repeats=True)
        system.receiver.open.set()
        await take_over(system, victim)
        assert system.repeated == {f"{run}/create" for run in ids}


async def test_a_durable_step_does_not_run_again_when_its_worker_is_killed_before_the_next(
    database: str, valkey_server: str
) -> None:
    async with drills.drill(database, valkey_server) as system:
        victim = await system.worker(STEPWELL_CRASH_AT="before_effect:11")
        ids = await system.start(10, "pair")
        assert await victim.ended() == -signal.SIGKILL
        fault = await system.struck("kill -9 between two steps", repeats=True)
        assert fault.durable, "no first step was durable when the second began"
        await take_over(system, victim)
        assert not system.repeated & fault.durable
        assert all(len(system.receiver.of(key)) == 1 for key in fault.durable)
        assert len(ids) == 10


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("how", ["kill", "raise"])
async def test_a_worker_that_crashes_loses_nothing(database: str, valkey_server: str, point: str, how: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        victim = await system.worker(STEPWELL_CRASH_AT=f"{point}:3={how}")
        await system.start(30)
        await system.start(10, "pair")
        code = await victim.ended()
        assert code == (-signal.SIGKILL if how == "kill" else 1), victim.text()
        await system.struck(f"{how} at {point}", repeats=True)
        await take_over(system, victim)


@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_that_stalls_past_its_death_changes_nothing_when_it_wakes(
    database: str, valkey_server: str, point: str
) -> None:
    async with drills.drill(database, valkey_server) as system:
        zombie = await system.worker(STEPWELL_CRASH_AT=f"{point}:3=stall")
        ids = await system.start(10) + await system.start(10, "pair")
        await eventually(lambda: zombie.stalled)
        await system.struck(f"stall at {point}", repeats=True)
        await system.worker()
        await system.ended(ids)
        await revive(system, zombie)
        await system.over()


async def revive(system: System, zombie: WorkerProcess) -> None:
    """Let a stopped worker go on: it begins a new life under another id."""
    (former,) = await system.lives(zombie)
    zombie.signal(signal.SIGCONT)
    await system.struck("the zombie wakes", repeats=True)

    async def reborn() -> bool:
        query = "SELECT id FROM workers WHERE process = %s AND dead_at IS NULL AND id > %s AND counter > 0"
        return bool(await system.rows(query, zombie.pid, former))

    await eventually(reborn)
    assert zombie.lines("was declared dead; it begins anew under another id")


async def test_the_answer_to_a_zombies_call_is_dropped_by_the_fence(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        system.receiver.open.clear()
        zombie = await system.worker()
        ids = await system.start(5)
        await eventually(lambda: system.receiver.holding == 5)
        zombie.signal(signal.SIGSTOP)
        await eventually(lambda: zombie.stalled)
        await system.struck("SIGSTOP with five calls in flight", repeats=True)
        await system.worker()
        await eventually(lambda: system.receiver.holding == 10, timeout=20)
        system.receiver.open.set()  # both get their answers; the zombie's lie in its sockets
        await system.ended(ids)
        records = await system.rows("SELECT run_id, step, attempt, fence, finished_at FROM run_steps ORDER BY 1, 2")
        await revive(system, zombie)
        await system.over()
        assert system.repeated == {f"{run}/create" for run in ids}
        again = await system.rows(
            "SELECT run_id, step, attempt, fence, finished_at FROM run_steps WHERE run_id::text = ANY(%s) ORDER BY 1, 2",
            ids,
        )
        assert again == records


async def test_sigterm_under_load_repeats_nothing_and_hands_everything_back(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        leaving = await system.worker(STEPWELL_SLOTS="50")
        async with system.load(batch=40, pause=0.0):
            await eventually(lambda: len(system.receiver.effects) > 200)
            leaving.signal(signal.SIGTERM)
            await system.struck("SIGTERM under load")
            assert await leaving.ended() == 0
        assert await system.rows("SELECT id FROM runs WHERE status = 'running'") == []
        assert await system.rows("SELECT id FROM runs WHERE suspicion > 0") == []
        await system.worker()
        await system.over()
        assert system.repeated == set()


async def test_sigterm_waits_for_calls_in_flight_and_records_them(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        system.receiver.open.clear()
        leaving = await system.worker()
        ids = await system.start(5)
        await eventually(lambda: system.receiver.holding == 5)
        leaving.signal(signal.SIGTERM)
        await system.struck("SIGTERM with five calls in flight")
        await eventually(lambda: leaving.lines("draining"))
        system.receiver.open.set()
        assert await leaving.ended() == 0
        assert {f"{run}/create" for run in ids} <= await system.durable()
        await system.worker()
        await system.over()
        assert system.repeated == set()


async def test_a_drain_ends_with_its_grace_period(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        system.receiver.open.clear()
        leaving = await system.worker(STEPWELL_GRACE="500ms")
        ids = await system.start(5)
        await eventually(lambda: system.receiver.holding == 5)
        leaving.signal(signal.SIGTERM)
        await system.struck("SIGTERM with a short grace period", repeats=True)
        assert await leaving.ended(5) == 0
        assert await system.statuses() == {"queued": 5}
        assert await system.rows("SELECT id FROM runs WHERE suspicion > 0") == []
        system.receiver.open.set()
        await system.worker()
        await system.over()
        assert system.repeated == {f"{run}/create" for run in ids}


@pytest.mark.deadline(90)
async def test_a_run_that_kills_its_workers_fails_as_a_poison_pill_and_its_neighbours_succeed(
    database: str, valkey_server: str
) -> None:
    async with drills.drill(database, valkey_server) as system:
        keeper = await system.worker(STEPWELL_SLOTS="1")
        (poison,) = await system.start(1, "pair")
        deaths = 0
        while not await ended(system, poison):
            deaths += 1
        assert keeper.running
        await system.over(failed=[poison])


async def ended(system: System, run: str) -> bool:
    await asyncio.sleep(0)
    return bool(await system.rows("SELECT 1 FROM runs WHERE id = %s AND finished_at IS NOT NULL", run))
