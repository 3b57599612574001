"""The ownership audit: what only the database or only the worker believes in goes, once two looks in a row saw it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from engine_life import Scene, World, nothing, scene, until
from engine_specs import effect
from virtual_time import turns, virtual_time

from stepwell_worker.ownership import PERIOD, OwnershipAudit

if TYPE_CHECKING:
    from stepwell.domain.action import Call

CALL = {"steps": [effect("a")]}


def audit(s: Scene) -> OwnershipAudit:
    return OwnershipAudit(s.store, s.dispatcher, s.life.worker)


async def for_ever(call: Call, body: Any) -> Any:
    await asyncio.sleep(1e6)


async def forgotten(s: Scene, run_id: str) -> None:
    """A claim that this worker never hears of."""
    s.database.add(run_id)
    await s.store.claim(s.life.worker, [run_id], 1)


@virtual_time
async def test_a_run_that_only_the_database_knows_of_is_handed_back_at_the_second_look() -> None:
    async with scene(CALL) as s:
        await forgotten(s, "r1")
        looking = audit(s)
        await looking.compare()
        assert s.database.rows["r1"].status == "running"
        await looking.compare()
        assert s.database.rows["r1"].status == "queued"


@virtual_time
async def test_another_claim_of_the_same_run_counts_anew() -> None:
    async with scene(CALL) as s:
        looking = audit(s)
        await forgotten(s, "r1")
        await looking.compare()
        s.database.rows["r1"].status = "queued"
        await s.store.claim(s.life.worker, ["r1"], 2)
        await looking.compare()
        assert s.database.rows["r1"].status == "running"
        await looking.compare()
        assert s.database.rows["r1"].status == "queued"


@virtual_time
async def test_runs_that_both_know_are_left_alone_however_often_one_looks() -> None:
    async with scene(CALL, World(for_ever)) as s:
        await s.submit()
        await until(lambda: s.dispatcher.active)
        looking = audit(s)
        for _ in range(5):
            await looking.compare()
        assert s.database.rows["r1"].status == "running"
        assert list(s.dispatcher.active) == ["r1"]


@virtual_time
async def test_a_run_that_only_the_worker_believes_in_is_dropped_at_the_second_look() -> None:
    async with scene(CALL, World(for_ever)) as s:
        await s.submit()
        await until(lambda: s.dispatcher.active)
        s.database.rows["r1"].fence = 99
        looking = audit(s)
        await looking.compare()
        assert list(s.dispatcher.active) == ["r1"]
        await looking.compare()
        await turns()
        assert s.dispatcher.active == {}
        assert s.life.left == [("r1", None)]


@virtual_time
async def test_a_claim_that_is_answered_while_one_looks_makes_no_difference() -> None:
    async with scene(CALL, World(for_ever)) as s:
        looking = audit(s)
        s.store.latency = lambda name: (0.5, 0.5) if name in {"claim", "owned"} else (0.0, 0.0)
        await s.submit()
        await until(lambda: "claim" in s.store.calls)
        await looking.compare()
        await looking.compare()
        await looking.compare()
        assert s.database.rows["r1"].claims == 1
        assert list(s.dispatcher.active) == ["r1"]


@virtual_time
async def test_an_outage_does_not_end_the_audit() -> None:
    async with scene(CALL) as s:
        await forgotten(s, "r1")
        s.store.breaks("owned", times=2)
        task = asyncio.ensure_future(audit(s).run())
        await asyncio.sleep(PERIOD * 5)
        assert s.database.rows["r1"].status == "queued"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@virtual_time
async def test_a_run_handed_back_while_its_history_loads_starts_no_effect_here() -> None:
    world = World(nothing)
    async with scene(CALL, world) as s:
        s.store.latency = lambda name: (0.0, 30.0) if name == "attempts" else (0.0, 0.0)
        await s.submit(claims=1)
        await until(lambda: "attempts" in s.store.calls)
        looking = audit(s)
        await looking.compare()
        await looking.compare()
        assert s.database.rows["r1"].status == "queued"
        await asyncio.sleep(60)
        assert world.calls == []
        assert s.life.left == [("r1", None)]
