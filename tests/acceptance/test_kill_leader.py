"""Leaders that are killed while they fire a cron trigger: its run is accepted once and ends, whoever goes on."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import drills
import orjson
from waiting import eventually

from stepwell.domain.spec import WorkflowSpec
from stepwell.engine.apply import revision_of

if TYPE_CHECKING:
    from drills import System

SPEC = {
    "triggers": [
        {"name": "yearly", "cron": {"schedule": "0 3 1 1 *"}, "input": {"at": "{{ trigger.scheduledTime }}"}},
    ],
    "steps": [{"name": "say", "transform": {"value": "{{ at }}"}}],
}


async def test_a_tick_survives_the_death_of_two_leaders(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        spec = WorkflowSpec.model_validate(SPEC)
        await system.store.apply(revision_of("shop", "clock", orjson.loads(orjson.dumps(SPEC)), spec))
        before = await system.worker(ready=False, STEPWELL_CRASH_AT="before_ticks=kill")
        await eventually(lambda: _missed_this_year(system), timeout=30)
        assert await before.ended() == -signal.SIGKILL
        assert await system.rows("SELECT id FROM runs") == []
        behind = await system.worker(ready=False, STEPWELL_CRASH_AT="after_ticks_before_offer=kill")
        assert await behind.ended() == -signal.SIGKILL
        assert await system.statuses() == {"queued": 1}
        await system.worker()
        await eventually(lambda: _succeeded(system), timeout=30)
        ticks = await system.rows("SELECT run_id, reason FROM schedule_ticks")
        assert ticks == await system.rows("SELECT id, NULL FROM runs")


async def _missed_this_year(system: System) -> bool:
    """Nobody was there for the tick of this year."""
    moved = await system.rows(
        "UPDATE schedules SET tick_at = t, due_at = t"
        " FROM (SELECT date_trunc('year', now(), 'UTC') + interval '3 hours' AS t) AS y RETURNING 1"
    )
    return bool(moved)


async def _succeeded(system: System) -> bool:
    return await system.statuses() == {"succeeded": 1}
