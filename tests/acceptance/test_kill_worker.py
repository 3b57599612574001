"""Workers that are killed, stopped and told to go: what was accepted ends once, whatever they were doing."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import drills
import pytest
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Collection

    from drills import System, WorkerProcess

POINTS = ["before_effect", "after_effect_before_flush", "before_flush", "after_flush_before_answer"]


async def take_over(system: System, victim: WorkerProcess, failed: Collection[str] = ()) -> None:
    """Another worker does what the victim left; nothing is left to the dead."""
    await system.worker()
    await system.over(failed=failed)
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


async def test_items_in_flight_run_again_when_their_worker_is_killed_and_durable_ones_do_not(
    database: str, valkey_server: str
) -> None:
    async with drills.drill(database, valkey_server) as system:
        victim = await system.worker()
        system.receiver.open.clear()
        (run,) = await system.start(1, "batch")
        await eventually(lambda: system.receiver.holding == 3)
        system.receiver.answer(2)
        await eventually(lambda: len(system.receiver.effects) == 5)  # two are durable, so that two others have begun
        victim.signal(signal.SIGKILL)
        await victim.ended()
        fault = await system.struck("kill -9 among the items of a step", repeats=True)
        assert len(fault.durable) == 2
        system.receiver.open.set()
        await take_over(system, victim)
        assert len(system.repeated) == 3
        assert not system.repeated & fault.durable
        assert all(len(system.receiver.of(key)) == 1 for key in fault.durable)
        (row,) = await system.rows(
            "SELECT json_array_length(output_data), items FROM step_runs WHERE step = 'each' AND item_index = -1"
        )
        assert row == (len(drills.ITEMS), len(drills.ITEMS))
        assert {key for key in await system.durable() if key.startswith(f"{run}/each/")} == {
            f"{run}/each/{i}" for i in range(6)
        }


async def test_a_handler_in_flight_when_its_worker_is_killed_runs_again_and_the_run_ends_after_it(
    database: str, valkey_server: str
) -> None:
    async with drills.drill(database, valkey_server) as system:
        victim = await system.worker()
        system.receiver.open.clear()
        ids = await system.start(5, "guarded")
        await eventually(lambda: system.receiver.holding == 5)
        system.receiver.answer(5)  # onFailure told of it, and finally is under way
        await eventually(lambda: len(system.receiver.effects) == 10)
        assert await system.statuses() == {"running": 5}, "a run ends after its handlers"
        victim.signal(signal.SIGKILL)
        await victim.ended()
        fault = await system.struck("kill -9 with five handlers in flight", repeats=True)
        assert fault.durable >= {f"{run}/tell" for run in ids}
        system.receiver.open.set()
        await take_over(system, victim, failed=ids)
        assert system.repeated == {f"{run}/tidy" for run in ids}
        assert all(len(system.receiver.of(f"{run}/tell")) == 1 for run in ids)
        found = await system.rows("SELECT DISTINCT error ->> 'step' FROM runs WHERE status = 'failed'")
        assert found == [("refuse",)]


@pytest.mark.parametrize("how", ["kill", "raise", "stall"])
async def test_workers_that_crash_at_every_point_lose_nothing(database: str, valkey_server: str, how: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        victims = {point: await system.worker(ready=False, STEPWELL_CRASH_AT=f"{point}:3={how}") for point in POINTS}
        for victim in victims.values():
            await system.registered(victim)
        fallen: set[str] = set()

        async def all_fell() -> bool:
            """More work until everybody met its point."""
            await system.start(5)
            await system.start(2, "pair")
            await system.start(1, "batch")
            for point, victim in victims.items():
                if point not in fallen and (victim.stalled if how == "stall" else not victim.running):
                    fallen.add(point)
                    await system.struck(f"{how} at {point}", repeats=True)
            return len(fallen) == len(POINTS)

        await eventually(all_fell, timeout=30)
        await system.worker()
        if how == "stall":
            await system.ended([run for run, _ in system.accepted.values()])
            for victim in victims.values():
                await revive(system, victim)
        else:
            assert {await v.ended() for v in victims.values()} == {-signal.SIGKILL if how == "kill" else 1}
        await system.over()


async def revive(system: System, zombie: WorkerProcess) -> None:
    """Let a stopped worker go on: it begins a new life under another id."""
    (former,) = await system.lives(zombie)
    zombie.signal(signal.SIGCONT)
    await system.struck("the zombie wakes", repeats=True, late=True)

    async def reborn() -> bool:
        query = "SELECT id FROM workers WHERE process = %s AND dead_at IS NULL AND id > %s AND counter > 0"
        return bool(await system.rows(query, zombie.pid, former))

    await eventually(reborn)
    assert zombie.lines("was declared dead; it begins anew under another id")


async def test_what_a_zombie_writes_is_dropped_by_the_fence(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        system.receiver.open.clear()
        zombie = await system.worker(STEPWELL_CRASH_AT="before_flush=stall")
        ids = await system.start(5, "pair")
        await eventually(lambda: system.receiver.holding == 5)
        system.receiver.answer(5)
        await eventually(lambda: zombie.stalled)
        await system.struck("SIGSTOP with five results in hand", repeats=True)
        heir = await system.worker()
        await eventually(lambda: system.receiver.holding > 0, timeout=20)  # the runs are another's now
        await revive(system, zombie)
        await system.ended(await system.start(20, "pure"))  # what the zombie had begun to write is through by now
        assert not {f"{run}/first" for run in ids} & await system.durable()
        system.receiver.open.set()
        await system.over()
        assert system.repeated == {f"{run}/first" for run in ids}
        assert heir.running


async def test_sigterm_under_load_repeats_nothing_and_hands_everything_back(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        leaving = await system.worker(STEPWELL_SLOTS="50")
        async with system.load(batch=20, pause=0.0):
            await eventually(lambda: len(system.receiver.effects) > 100)
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
        assert await leaving.ended(15) == 0, "the default grace period is 45 s"
        assert await system.statuses() == {"queued": 5}
        assert await system.rows("SELECT id FROM runs WHERE suspicion > 0") == []
        system.receiver.open.set()
        await system.worker()
        await system.over()
        assert system.repeated == {f"{run}/create" for run in ids}


async def test_a_run_that_kills_its_workers_ends_as_a_poison_pill_and_its_neighbours_succeed(
    database: str, valkey_server: str
) -> None:
    async with drills.drill(database, valkey_server) as system:
        for how in ["kill", "raise", "raise", "raise", "raise", "raise"]:
            await system.worker(ready=False, STEPWELL_CRASH_AT=f"before_effect={how}")
        for worker in system.workers:
            await system.registered(worker)
        neighbours = await system.start(30, "pure")
        (poison,) = await system.start(1, "pair")
        neighbours += await system.start(30, "pure")
        await eventually(lambda: not any(worker.running for worker in system.workers), timeout=60)
        await system.struck("a run that kills its workers: one death that is not counted, then five")
        await system.worker()
        await system.over(failed=[poison])
        assert await system.rows("SELECT error ->> 'reason' FROM runs WHERE id = %s", poison) == [("PoisonPill",)]
        assert len(neighbours) == 60
