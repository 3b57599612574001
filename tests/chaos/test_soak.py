"""A random soak: workers, PostgreSQL and Redis are killed, stopped, cut and emptied, by a seed that is printed.

``make chaos`` runs it for minutes. ``STEPWELL_CHAOS_SECONDS`` sets for how long faults come, ``STEPWELL_CHAOS_SEED``
which: the same seed gives the same order of faults, though not the same interleaving.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import drills
import pytest
import services
from waiting import eventually

from stepwell.adapters.postgres.migrate import migrate
from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from drills import System, WorkerProcess

SECONDS = float(os.environ.get("STEPWELL_CHAOS_SECONDS", "5"))
SEED = int(os.environ.get("STEPWELL_CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
WORKERS = 3
HEALING = 30.0  #: seconds within which work goes on after every fault


@dataclass
class Nemesis:
    """Breaks one thing at a time. What it stops stays stopped until ``heal`` or the luck of a later turn."""

    system: System
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    luck: random.Random
    stopped: list[WorkerProcess] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    async def strike(self) -> None:
        fault = self.luck.choice(FAULTS)
        self.done[fault] += 1
        await getattr(self, fault)()

    async def kill_worker(self) -> None:
        victim = self.luck.choice(self.up())
        victim.signal(signal.SIGKILL)
        await victim.ended()
        await self.system.struck("kill -9 of a worker", repeats=True)
        await self.system.worker(ready=False)

    async def stop_worker(self) -> None:
        if len(self.up()) < 2:
            await self.wake_worker()
            return
        victim = self.luck.choice(self.up())
        victim.signal(signal.SIGSTOP)
        self.stopped.append(victim)
        await self.system.struck("SIGSTOP of a worker", repeats=True)

    async def wake_worker(self) -> None:
        while self.stopped:
            self.stopped.pop().signal(signal.SIGCONT)
            await self.system.struck("SIGCONT of a worker", repeats=True, late=True)

    async def leave(self) -> None:
        leaving = self.luck.choice(self.up())
        await self.system.registered(leaving)  # a process that is only just starting ends by the signal itself
        leaving.signal(signal.SIGTERM)
        await self.system.struck("SIGTERM of a worker")
        await self.system.worker(ready=False)
        assert await leaving.ended() == 0, leaving.text()

    async def flush_redis(self) -> None:
        services.flush(self.valkey.url)
        await self.system.struck("FLUSHALL")

    async def restart_redis(self) -> None:
        await asyncio.to_thread(self.valkey.restart)
        await self.system.struck("Redis is killed and comes back empty")

    async def stop_redis(self) -> None:
        os.kill(self.valkey.pid, signal.SIGSTOP)
        await self.system.struck("SIGSTOP of Redis")
        await self.progress()
        os.kill(self.valkey.pid, signal.SIGCONT)

    async def terminate_backends(self) -> None:
        await self.system.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'stepwell%%'"
        )
        await self.system.struck("backends are terminated")

    async def crash_postgres(self) -> None:
        await asyncio.to_thread(self.postgres.kill)
        await asyncio.to_thread(self.postgres.start)
        await self.system.struck("PostgreSQL is killed and started again")

    def up(self) -> list[WorkerProcess]:
        """The workers that are neither ended nor stopped."""
        return [worker for worker in self.system.workers if worker.running and worker not in self.stopped]

    async def progress(self) -> None:
        """After every fault, work goes on."""
        seen = len(self.system.receiver.effects)
        await eventually(lambda: len(self.system.receiver.effects) > seen + 20, HEALING)

    async def heal(self) -> None:
        await self.wake_worker()


FAULTS = [
    "kill_worker", "stop_worker", "wake_worker", "leave", "flush_redis", "restart_redis", "stop_redis",
    "terminate_backends", "crash_postgres",
]  # fmt: skip


@pytest.mark.deadline(SECONDS * 2 + 240)
async def test_whatever_breaks_every_accepted_run_ends_once(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nsoak: {SECONDS:g} s, STEPWELL_CHAOS_SEED={SEED}")
    with EmbeddedPostgres(settings={"recovery_init_sync_method": "syncfs"}) as postgres, EmbeddedValkey() as valkey:
        await migrate(postgres.dsn())
        async with drills.drill(
            postgres.dsn(), valkey.url, STEPWELL_TRUST_WINDOW="2s", STEPWELL_DEATH_SILENCE="3s"
        ) as system:
            nemesis = await soak(system, Nemesis(system, postgres, valkey, random.Random(SEED)))
            await system.over(timeout=120)
            assert all(worker.running for worker in nemesis.up()), "a worker ended by itself"
            with capsys.disabled():
                ways = ", ".join(f"{name} {count}" for name, count in sorted(nemesis.done.items()))
                repeats = len(system.repeated)
                print(f"soak: {len(system.accepted)} runs, {repeats} effects repeated; {ways}")


async def soak(system: System, nemesis: Nemesis) -> Nemesis:
    for worker in [await system.worker(ready=False) for _ in range(WORKERS)]:
        await system.registered(worker)
    until = time.monotonic() + SECONDS
    async with (
        system.load("order", 5), system.load("pair", 2), system.load("pure", 5), system.load("late", 1, 0.5),
        system.load("batch", 1, 0.3),
    ):  # fmt: skip
        while time.monotonic() < until:
            await nemesis.progress()
            await nemesis.strike()
        await nemesis.heal()
        await nemesis.progress()
    return nemesis
