"""Cron on a real database under a clock that the test moves: what is due starts, also late, and no tick is lost."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cron_stage import AT, cron_stage

from stepwell.engine.clock import Clock, as_micros
from stepwell.engine.maintenance import cron as crons


async def test_a_tick_starts_one_run_when_it_is_due(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 3 * * *", timeZone="Europe/Berlin", **AT)
        assert await stage.look() == crons.PERIOD
        assert await stage.next_tick() == "11-21T02:00"
        await stage.at("2026-11-21T01:59:59.5")
        assert await stage.look() == pytest.approx(0.5), "it wakes when the next one is due"
        assert await stage.runs() == []
        await stage.at("2026-11-21T02:00:00.1")
        await stage.look()
        assert await stage.runs() == ["2026-11-21T02:00:00Z"]
        assert await stage.ticks() == [("11-21T02:00", None)]
        (row,) = await stage.stage.query("SELECT * FROM runs")
        assert (row["trigger"], row["status"], row["namespace"]) == ("tick", "queued", "shop")
        assert stage.leaders[0].queue.offered == [str(row["id"])]
        (event,) = await stage.stage.query("SELECT * FROM trigger_events")
        assert (event["run_id"], event["trigger"]) == (row["id"], "tick")
        (ticked,) = stage.leaders[0].notes.ticks
        assert ticked.lateness == [pytest.approx(0.1)]
        await stage.look()
        assert len(await stage.runs()) == 1
        assert await stage.next_tick() == "11-22T02:00"


WEEKEND = "2026-11-20T18:00:00"
MONDAY = "2026-11-23T07:30:00"


@pytest.mark.parametrize(
    ("cron", "runs", "skipped"),
    [
        ({"missedRuns": "Skip"}, [], {"Missed": 3}),
        ({"missedRuns": "Latest"}, ["2026-11-23T03:00:00Z"], {"Missed": 2}),
        ({"missedRuns": "All"}, ["2026-11-21T03:00:00Z", "2026-11-22T03:00:00Z", "2026-11-23T03:00:00Z"], {}),
        (
            {"missedRuns": "All", "startingDeadline": "30h"},
            ["2026-11-22T03:00:00Z", "2026-11-23T03:00:00Z"],
            {"DeadlineExceeded": 1},
        ),
        ({"startingDeadline": "1h"}, [], {"DeadlineExceeded": 3}),
        ({"missedRuns": "All", "concurrencyPolicy": "Forbid"}, ["2026-11-23T03:00:00Z"], {"Missed": 2}),
    ],
)
async def test_a_monday_after_a_dead_weekend(
    database: str, cron: dict[str, Any], runs: list[str], skipped: dict[str, int]
) -> None:
    async with cron_stage(database, WEEKEND) as stage:
        await stage.apply(schedule="0 3 * * *", **cron, **AT)
        await stage.look()
        await stage.at(MONDAY)
        await stage.look()
        assert await stage.runs() == runs
        assert stage.leaders[0].notes.skipped == skipped
        assert await stage.next_tick() == "11-24T03:00"


async def test_what_was_applied_while_no_leader_lived_counts_from_then_on(database: str) -> None:
    async with cron_stage(database, WEEKEND) as stage:
        await stage.apply(schedule="0 3 * * *", missedRuns="All", **AT)
        await stage.at(MONDAY)
        await stage.look()
        assert len(await stage.runs()) == 3


async def test_a_tick_that_is_a_little_late_was_not_missed(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:30") as stage:
        await stage.apply(schedule="* * * * *", missedRuns="Skip", **AT)
        await stage.look()
        await stage.at("2026-11-20T12:02:50")
        await stage.look()
        assert await stage.runs() == ["2026-11-20T12:02:00Z"]
        assert stage.leaders[0].notes.skipped == {"Missed": 1}


async def test_a_leader_that_is_busy_misses_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cron_stage(database, "2026-11-20T12:00:30") as stage:
        for number in range(4):
            await stage.apply(name=f"w{number}", schedule="0 * * * *", missedRuns="Skip", **AT)
        await stage.at("2026-11-20T12:59:50")
        await stage.look()
        monkeypatch.setattr(crons, "LIMIT", 1)
        await stage.at("2026-11-20T13:00:00")
        for _ in range(4):
            assert await stage.leaders[0].cron.run() == 0.0
            stage.clock.now += timedelta(seconds=50)
        assert [len(await stage.runs(f"w{number}")) for number in range(4)] == [1, 1, 1, 1]
        assert stage.leaders[0].notes.skipped == {}


async def test_a_machine_that_slept_follows_the_clock_of_the_database(database: str) -> None:
    async with cron_stage(database, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}") as stage:
        clock = Clock()
        clock.learn(as_micros(datetime.now(UTC)) - 3_600_000_000, time.monotonic_ns(), time.monotonic_ns())
        leader = stage.leaders[0]
        leader.cron._clock = clock
        await stage.apply(schedule="* * * * *", missedRuns="All", **AT)
        await stage.stage.query("UPDATE schedule_changes SET changed_at = now() - interval '10 minutes'")
        await stage.look()
        assert len(await stage.runs()) in (10, 11)
        assert abs(clock.micros() - as_micros(datetime.now(UTC))) < 2_000_000


async def test_of_weeks_of_minutes_the_latest_thousand_start_in_batches(database: str) -> None:
    async with cron_stage(database, "2026-10-20T12:00:00") as stage:
        await stage.apply(schedule="* * * * *", missedRuns="All", **AT)
        await stage.look()
        await stage.at("2026-11-20T12:00:30")
        assert await stage.leaders[0].cron.run() == 0.0
        assert len(await stage.runs()) == crons.BATCH
        await stage.look()
        runs = await stage.runs()
        assert len(runs) == 1_000
        assert (runs[0], runs[-1]) == ("2026-11-19T19:21:00Z", "2026-11-20T12:00:00Z")
        assert stage.leaders[0].notes.skipped == {"Missed": 1}, "what is older is not counted one by one"


async def test_a_tick_of_weeks_ago_has_a_place_though_its_day_has_none(database: str) -> None:
    async with cron_stage(database, "2026-03-01T12:00:00") as stage:
        await stage.apply(schedule="0 3 2 * *", **AT)
        await stage.look()
        await stage.at("2026-03-29T00:00:05")
        await stage.look()
        assert await stage.runs() == ["2026-03-02T03:00:00Z"]
        (row,) = await stage.stage.query("SELECT tableoid::regclass::text AS day, created_at FROM runs")
        assert row["day"] == "runs_20260329"
        assert f"{row['created_at'].astimezone(UTC):%m-%d}" == "03-29"


async def test_nothing_is_lost_where_the_day_has_no_partition_yet(database: str) -> None:
    async with cron_stage(database, "2026-03-01T12:00:00") as stage:
        await stage.apply(schedule="0 3 * * *", **AT)
        await stage.look()
        await stage.at("2026-03-02T03:00:00")
        await stage.stage.query("ALTER TABLE runs DETACH PARTITION runs_20260302")
        await stage.stage.query("ALTER TABLE runs_20260302 RENAME TO hidden")
        assert await stage.look() == crons.PERIOD
        assert (await stage.runs(), await stage.ticks()) == ([], [])
        await stage.stage.query("DROP TABLE hidden")
        await stage.at("2026-03-02T03:00:01")
        await stage.look()
        assert await stage.runs() == ["2026-03-02T03:00:00Z"]
