"""Several workers over one database, in any order of answers: claims, fences, flushes, deaths and the reaper.

Statements take random times before and after their effect, workers die, stand still or drain, answers are lost; a
stopped worker goes on as a zombie. Nothing may start twice without a reason, and everything ends.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine_life import Life, World, actions_of, stored, until
from engine_specs import effect, failure, retry, value
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import Database, MemoryQueue
from virtual_time import VirtualClock, run_virtual

from stepwell.engine.ports import ReadyRun
from stepwell_worker.ownership import OwnershipAudit

if TYPE_CHECKING:
    from stepwell.domain.action import Call

SPEC = {
    "steps": [value("a", 1), effect("b", retry=retry(1, "3s")), value("c", 2), effect("d"), effect("e", needs=["a"])]
}
WORKERS = 2


@dataclass(slots=True)
class Town:
    """Some workers, their database, and whoever looks after it."""

    seed: int
    runs: int
    random: random.Random = field(init=False)
    database: Database = field(init=False)
    queue: MemoryQueue = field(init=False)
    lives: list[Life] = field(default_factory=list)
    began: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    in_flight: dict[tuple[int, str, str], tuple[str, str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    ending: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.database = Database(VirtualClock().micros)
        self.database.revisions[1] = stored(SPEC)
        self.queue = MemoryQueue()
        for _ in range(WORKERS):
            self.hire()

    def hire(self) -> None:
        world = World(lambda call, body: self.perform(life, call))
        life = Life(self.database, self.queue, actions_of(world), slots=2, suspects=True)
        life.store.latency = lambda _: (self.random.choice([0, 0.001, 0.05]), self.random.choice([0, 0.001, 0.05]))
        life.start()
        audit = OwnershipAudit(life.store, life.dispatcher, life.worker)
        life.tasks.append(asyncio.ensure_future(audit.run()))
        self.lives.append(life)

    async def perform(self, life: Life, call: Call) -> Any:
        key = (call.run_id, call.step, call.attempt)
        row = self.database.rows[call.run_id]
        self.began[key] += 1
        if (row.status, row.worker) != ("running", life.worker):
            self.problems.append(f"{key} began under worker {life.worker}, but the run is {row.status} of {row.worker}")
        if self.database.final_record(call.run_id, call.step) is not None:
            self.problems.append(f"{key} began, though its result is durable")
        self.in_flight[life.worker, call.run_id, call.step] = key
        await asyncio.sleep(self.random.choice([0, 0.01, 0.3, 2.0]))
        del self.in_flight[life.worker, call.run_id, call.step]
        if call.step == "b" and call.attempt == 1 and call.run_id.endswith("0"):
            raise failure()
        return call.run_id

    async def look_after(self) -> None:
        while True:
            self.database.reap()
            for row in self.database.rows.values():
                if row.status == "waiting" and row.due_at is not None and row.due_at <= self.database.now():
                    self.database.wake(row.id)
                if row.status == "queued":
                    await self.queue.add([ReadyRun(row.id, "default", 0)])
            await asyncio.sleep(0.3)

    async def strike(self, event: str) -> None:
        life = self.random.choice(self.lives)
        if event == "lose an answer":
            life.store.breaks(self.random.choice(["claim", "flush", "attempts"]), after=self.random.random() < 0.5)
            return
        self.lives.remove(life)
        self.hire()
        if event == "kill":
            await life.kill()
        elif event == "stop":
            life.trust.given = False
            self.database.alive.discard(life.worker)
            self.ending.append(asyncio.ensure_future(self.end(life, 8.0)))
        else:
            self.ending.append(asyncio.ensure_future(self.leave(life)))

    async def end(self, life: Life, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await life.kill()

    async def leave(self, life: Life) -> None:
        await life.dispatcher.drain(grace=1.0)
        await life.kill()

    async def play(self, events: list[tuple[float, str]]) -> None:
        for n in range(self.runs):
            self.database.add(f"r{n}")
        looking = asyncio.ensure_future(self.look_after())
        loop = asyncio.get_running_loop()
        try:
            for at, event in sorted(events):
                await asyncio.sleep(max(0.0, at - loop.time()))
                await self.strike(event)
            await until(lambda: looking.done() or all(row.final for row in self.database.rows.values()), 600.0)
            await until(lambda: not any(life.dispatcher.active for life in self.lives), 60.0)
        finally:
            looking.cancel()
            await asyncio.gather(*self.ending)
            failed = [life.failed() for life in self.lives]
            for life in self.lives:
                await life.kill()
        assert failed == [None] * WORKERS
        assert self.problems == []


@given(
    st.integers(0, 10_000),
    st.integers(1, 6),
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.06, 0.3, 1.0, 2.5]), st.sampled_from(["kill", "stop", "drain", "lose an answer"])),
        max_size=5,
    ),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_workers_share_runs_and_each_result_is_recorded_once(
    seed: int, runs: int, events: list[tuple[float, str]]
) -> None:
    async def play() -> Town:
        town = Town(seed, runs)
        await town.play(events)
        return town

    town = run_virtual(play())
    losses = sum(event != "lose an answer" for _, event in events)
    assert all(row.status == "succeeded" for row in town.database.rows.values())
    for run_id in town.database.rows:
        records = sorted((r.step, r.attempt, str(r.status)) for r in town.database.attempts(run_id))
        failed = [("b", 1, "failed"), ("b", 2, "succeeded")] if run_id.endswith("0") else [("b", 1, "succeeded")]
        assert records == [("a", 1, "succeeded"), *failed, *((s, 1, "succeeded") for s in "cde")]
    assert max(town.began.values()) <= 1 + losses
    assert losses or set(town.began.values()) == {1}
