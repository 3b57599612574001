"""Workflows with cron triggers that are edited, suspended, deleted or of a newer version; and what is kept of old ticks."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from cron_stage import AT, STEPS, cron_stage

from stepwell.adapters.postgres.schedule_store import PostgresScheduleStore
from stepwell.domain.spec import WorkflowSpec
from stepwell.engine.apply import revision_of
from stepwell.engine.maintenance import cron as crons
from stepwell.engine.maintenance.old_ticks import KEPT, OldTicks


async def test_suspended_and_deleted_workflows_start_nothing_and_miss_nothing(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        fields: dict[str, Any] = {"schedule": "0 * * * *", "missedRuns": "All", **AT}
        await stage.apply(**fields)
        await stage.look()
        await stage.apply(suspend=True, **fields)
        assert await stage.next_tick() is None, "at once, without a leader"
        await stage.at("2026-11-20T14:30:00")
        await stage.look()
        await stage.apply(**fields)
        await stage.look()
        assert (await stage.runs(), await stage.next_tick()) == ([], "11-20T15:00")
        await stage.stage.query("UPDATE workflows SET deleted_at = now() WHERE name = 'nightly'")
        await stage.at("2026-11-20T16:30:00")
        await stage.look()
        assert (await stage.runs(), await stage.next_tick()) == ([], None)
        await stage.apply(**fields)
        await stage.look()
        await stage.at("2026-11-20T17:00:00")
        await stage.look()
        assert await stage.runs() == ["2026-11-20T17:00:00Z"]


async def test_an_edited_schedule_counts_from_now_and_another_edit_changes_nothing(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 * * * *", missedRuns="All", **AT)
        await stage.look()
        await stage.at("2026-11-20T14:30:00")
        await stage.apply(schedule="0  * * * *", missedRuns="All", input={**AT["input"], "more": True})
        await stage.look()
        assert await stage.runs() == ["2026-11-20T13:00:00Z", "2026-11-20T14:00:00Z"], "its timing is what it was"
        (row,) = await stage.stage.query("SELECT DISTINCT revision_id AS id FROM runs")
        assert row["id"] == await stage.active()
        await stage.at("2026-11-20T18:30:00")
        await stage.apply(schedule="15 * * * *", missedRuns="All", **AT)
        await stage.look()
        assert (len(await stage.runs()), await stage.next_tick()) == (2, "11-20T19:15")
        await stage.apply_spec("nightly", {"triggers": []})
        await stage.look()
        assert await stage.next_tick() is None


async def test_a_tick_between_an_edit_and_the_leaders_look_waits_for_the_look(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 * * * *", **AT)
        await stage.look()
        await stage.apply(schedule="0 * * * *", input={"at": "new"})
        await stage.at("2026-11-20T13:00:00")
        leader = stage.leaders[0]
        assert (await leader.cron._store.look(stage.clock.micros(), 10, [])).due == []
        await stage.look()
        assert await stage.runs() == ["new"]


async def test_an_edit_that_is_being_committed_is_neither_waited_for_nor_lost(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 * * * *", **AT)
        held = await stage.stage.held()
        spec = {"steps": STEPS, "triggers": [{"name": "tick", "cron": {"schedule": "30 * * * *"}, **AT}]}
        await held.intake.apply(revision_of("shop", "nightly", spec, WorkflowSpec.model_validate(spec)))
        async with asyncio.timeout(10):
            assert await stage.look() == crons.PERIOD
        assert await stage.next_tick() is None
        await held.commit()
        await stage.stage.query("UPDATE schedule_changes SET changed_at = %s", stage.clock.now)
        await stage.look()
        assert await stage.next_tick() == "11-20T12:30"


async def test_workflows_without_cron_leave_nothing_behind(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        assert await stage.stage.query("SELECT * FROM schedule_changes") != []
        await stage.look()
        assert await stage.stage.query("SELECT * FROM schedule_changes") == []
        assert await stage.next_tick() is None


async def test_a_trigger_of_a_newer_version_is_left_to_its_leader(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 * * * *", **AT)
        await stage.apply(name="older", schedule="0 * * * *", **AT)
        await stage.stage.query("ALTER TABLE workflow_revisions DISABLE TRIGGER USER")
        await stage.stage.query(
            "UPDATE workflow_revisions SET spec = replace(spec::text, '0 * * * *', '@hourly')::json WHERE workflow_id ="
            " (SELECT id FROM workflows WHERE name = 'nightly')"
        )
        assert await stage.look() == crons.PERIOD
        assert await stage.look() == crons.PERIOD
        assert caplog.text.count("shop/nightly are not understood") == 1
        assert len(await stage.stage.query("SELECT * FROM schedule_changes")) == 1
        await stage.at("2026-11-20T13:00:00")
        await stage.look()
        assert (await stage.runs(), len(await stage.runs("older"))) == ([], 1)


# -- old ticks ----------------------------------------------------------------------------------------------------------


async def test_old_ticks_are_forgotten_but_for_those_of_live_runs(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 * * * *", **AT)
        await stage.look()
        for hour in (13, 14, 15):
            await stage.at(f"2026-11-20T{hour}:00:00")
            await stage.look()
        runs = await stage.stage.query("SELECT id FROM runs ORDER BY id")
        await stage.end(str(runs[0]["id"]))
        store = PostgresScheduleStore((await stage.stage.side()).session)
        job = OldTicks(store, stage.clock)
        stage.clock.now += timedelta(microseconds=KEPT) - timedelta(minutes=30)
        await job.run()
        assert [tick for tick, _ in await stage.ticks()] == ["11-20T14:00", "11-20T15:00"], "14:00 has a live run"
        await stage.end(str(runs[1]["id"]))
        await job.run()
        assert [tick for tick, _ in await stage.ticks()] == ["11-20T15:00"], "15:00 is not old"
