"""Each tick starts once, whatever happens to leaders, answers and clocks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from cron_stage import AT, CronStage, cron_stage

from stepwell.adapters.postgres.schedule_store import PostgresScheduleStore
from stepwell.domain.errors import UnavailableError
from stepwell.engine import crashpoints
from stepwell.engine.maintenance import cron as crons

if TYPE_CHECKING:
    from stepwell.engine.schedules import Fired


async def test_two_leaders_at_once_start_one_run(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 3 * * *", **AT)
        await stage.look()
        await stage.at("2026-11-21T03:00:00")
        first, second = await stage.stage.held(), await stage.stage.held()
        slow, late = await stage.leader(first), await stage.leader(second)
        assert await slow.cron.run() == 0.0
        looking = await stage.stage.waits(second, late.cron.run())
        await first.commit()
        assert await looking == crons.PERIOD, "the second finds the schedule moved on"
        await second.commit()
        assert await stage.runs() == ["2026-11-21T03:00:00Z"]
        assert (len(slow.queue.offered), late.queue.offered, late.notes.ticks) == (1, [], [])


async def test_ten_leaders_and_many_schedules(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:30") as stage:
        for number in range(40):
            await stage.apply(name=f"w{number}", schedule="* * * * *", **AT)
        await stage.look()
        leaders = [await stage.leader() for _ in range(10)]
        for minute in range(1, 4):
            await stage.at(f"2026-11-20T12:0{minute}:00")
            await asyncio.gather(*(stage.look(leader) for leader in leaders))
        (row,) = await stage.stage.query("SELECT count(*) AS runs, count(DISTINCT workflow_id) AS workflows FROM runs")
        assert row == {"runs": 120, "workflows": 40}
        assert len({run for leader in leaders for run in leader.queue.offered}) == 120


async def test_a_leader_that_dies_before_the_transaction_loses_nothing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await _dies(stage, monkeypatch, "before_ticks")
        assert (await stage.runs(), await stage.ticks()) == ([], [])
        await stage.look(await stage.leader())
        assert await stage.runs() == ["2026-11-21T03:00:00Z"]


async def test_a_leader_that_dies_between_commit_and_hint_doubles_nothing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await _dies(stage, monkeypatch, "after_ticks_before_offer")
        await stage.look(await stage.leader())
        assert await stage.runs() == ["2026-11-21T03:00:00Z"]
        assert all(leader.queue.offered == [] for leader in stage.leaders)
        await stage.stage.query("UPDATE runs SET created_at = now() - interval '1 minute'")
        page, _ = await stage.leaders[0].side.upkeep.queued_page(("", "00000000-0000-0000-0000-000000000000"), 10)
        assert len(page) == 1, "the comparison with the ready queue finds it"


async def _dies(stage: CronStage, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """The leader falls at this point of firing a tick."""
    await stage.apply(schedule="0 3 * * *", **AT)
    await stage.look()
    await stage.at("2026-11-21T03:00:00")
    armed = crashpoints._Point(f"{point}=raise")
    monkeypatch.setattr(crons, "crashpoint", armed.passed)
    with pytest.raises(crashpoints.CrashError):
        await stage.look()
    monkeypatch.undo()


async def test_an_answer_that_was_lost_doubles_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 3 * * *", **AT)
        await stage.look()
        await stage.at("2026-11-21T03:00:00")
        fire = PostgresScheduleStore.fire

        async def lost(self: PostgresScheduleStore, *args: Any) -> Fired:
            await fire(self, *args)
            raise UnavailableError("the connection is gone")

        monkeypatch.setattr(PostgresScheduleStore, "fire", lost)
        with pytest.raises(UnavailableError):
            await stage.look()
        monkeypatch.undo()
        await stage.look()
        assert await stage.runs() == ["2026-11-21T03:00:00Z"]


async def test_a_clock_that_goes_back_starts_no_tick_twice(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 * * * *", **AT)
        await stage.look()
        await stage.at("2026-11-20T13:00:00")
        await stage.look()
        await stage.at("2026-11-20T12:10:00")
        await stage.apply(schedule="0 * * * *", jitter="1ms", **AT)
        await stage.look()
        assert await stage.next_tick() == "11-20T13:00"
        await stage.at("2026-11-20T13:00:01")
        await stage.look()
        assert await stage.runs() == ["2026-11-20T13:00:00Z"]
        assert await stage.next_tick() == "11-20T14:00"


async def test_a_tick_that_is_fired_again_makes_the_same_id(database: str) -> None:
    """Whoever fires a tick makes the same id, so the run's primary key refuses a second one as well."""
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 3 * * *", **AT)
        await stage.look()
        await stage.at("2026-11-21T03:00:00")
        await stage.look()
        await stage.stage.query("DELETE FROM schedule_ticks")
        await stage.stage.query("UPDATE schedules SET tick_at = '2026-11-21T03:00Z', due_at = '2026-11-21T03:00Z'")
        await stage.look()
        assert await stage.runs() == ["2026-11-21T03:00:00Z"]
        assert await stage.ticks() == [("11-21T03:00", None)]
