"""Cron on a real database under a clock that the test moves: what is due starts, once, whatever happened meanwhile."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cron_stage import AT, STEPS, CronStage, cron_stage

from stepwell.adapters.postgres.schedule_store import PostgresScheduleStore
from stepwell.domain.errors import UnavailableError
from stepwell.domain.spec import WorkflowSpec
from stepwell.engine import crashpoints
from stepwell.engine.apply import revision_of
from stepwell.engine.clock import Clock, as_micros
from stepwell.engine.maintenance import cron as crons
from stepwell.engine.maintenance.old_ticks import KEPT, OldTicks

if TYPE_CHECKING:
    from stepwell.engine.schedules import Fired


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


# -- once ---------------------------------------------------------------------------------------------------------------


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


# -- concurrency --------------------------------------------------------------------------------------------------------


async def test_forbid_skips_while_a_run_of_the_trigger_is_live(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 * * * *", concurrencyPolicy="Forbid", **AT)
        await stage.look()
        for hour in (13, 14, 15):
            await stage.at(f"2026-11-20T{hour}:00:00")
            await stage.look()
        assert await stage.ticks() == [
            ("11-20T13:00", None),
            ("11-20T14:00", "Forbidden"),
            ("11-20T15:00", "Forbidden"),
        ]
        assert stage.leaders[0].notes.skipped == {"Forbidden": 2}
        (run,) = await stage.stage.query("SELECT id FROM runs")
        await stage.end(str(run["id"]))
        await stage.at("2026-11-20T16:00:00")
        await stage.look()
        assert await stage.runs() == ["2026-11-20T13:00:00Z", "2026-11-20T16:00:00Z"]


async def test_forbid_sees_runs_from_when_it_was_allow_but_not_those_of_others(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 * * * *", **AT)
        await stage.look()
        for hour in (13, 14):
            await stage.at(f"2026-11-20T{hour}:00:00")
            await stage.look()
        newer, older = await stage.stage.query("SELECT id FROM runs ORDER BY id DESC")
        await stage.end(str(newer["id"]))
        await stage.apply(schedule="0 * * * *", concurrencyPolicy="Forbid", **AT)
        await stage.at("2026-11-20T15:00:00")
        await stage.look()
        assert (await stage.ticks())[-1] == ("11-20T15:00", "Forbidden"), "the run of 13:00 goes on"
        await stage.end(str(older["id"]))
        await stage.stage.queued(workflow_id=(await stage.stage.run(str(older["id"])))["workflow_id"],
                                 revision_id=await _active(stage))  # fmt: skip
        await stage.at("2026-11-20T16:00:00")
        await stage.look()
        assert (await stage.ticks())[-1] == ("11-20T16:00", None), "a run of the API is none of the trigger's"


async def _active(stage: CronStage) -> int:
    (row,) = await stage.stage.query("SELECT active_revision_id AS id FROM workflows WHERE name = 'nightly'")
    return int(row["id"])


async def test_replace_cancels_what_is_live_and_starts(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        await stage.apply(schedule="0 * * * *", concurrencyPolicy="Replace", **AT)
        await stage.look()
        await stage.at("2026-11-20T13:00:00")
        await stage.look()
        worker = await stage.stage.worker()
        (run,) = await stage.leaders[0].side.runs.claim(worker, stage.leaders[0].queue.offered, token=1)
        await stage.at("2026-11-20T14:00:00")
        await stage.look()
        await stage.at("2026-11-20T15:00:00")
        await stage.look()
        rows = await stage.stage.query(
            "SELECT status, cancel_requested_at IS NOT NULL AS cancelled FROM runs ORDER BY id"
        )
        assert [(row["status"], row["cancelled"]) for row in rows] == [
            ("running", True), ("cancelled", True), ("queued", False)
        ]  # fmt: skip
        assert stage.leaders[0].queue.cancels == [run.id, run.id], "it was told again, for it still ran"


async def test_replace_cancels_nothing_for_a_tick_that_starts_nothing(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        condition = "trigger.scheduledTime != '2026-11-20T14:00:00Z'"
        await stage.apply(schedule="0 * * * *", concurrencyPolicy="Replace", **AT, **{"if": condition})
        await stage.look()
        for hour in (13, 14):
            await stage.at(f"2026-11-20T{hour}:00:00")
            await stage.look()
        assert await stage.ticks() == [("11-20T13:00", None), ("11-20T14:00", "Filtered")]
        assert [row["status"] for row in await stage.stage.query("SELECT status FROM runs")] == ["queued"]


# -- what a trigger says ------------------------------------------------------------------------------------------------


async def test_input_that_does_not_fit_is_skipped_recorded_and_never_tried_again(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        trigger = {"name": "tick", "cron": {"schedule": "0 * * * *"}, "input": {"n": "{{ trigger.name }}"}}
        await stage.apply_spec("nightly", {"inputSchema": schema, "triggers": [trigger]})
        await stage.look()
        await stage.at("2026-11-20T13:00:00")
        await stage.look()
        assert await stage.ticks() == [("11-20T13:00", "InvalidInput")]
        (row,) = await stage.stage.query("SELECT message, run_id FROM schedule_ticks")
        assert row["run_id"] is None
        assert "input.n" in row["message"]
        assert stage.leaders[0].notes.skipped == {"InvalidInput": 1}
        assert await stage.next_tick() == "11-20T14:00"


async def test_an_input_that_postgresql_refuses_holds_up_nobody(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        for number in range(5):
            await stage.apply(name=f"w{number}", schedule="* * * * *", missedRuns="All", **AT)
        poison = {"at": "{{ trigger.scheduledTime == '2026-11-20T12:02:00Z' ? '\\u0000' : trigger.scheduledTime }}"}
        await stage.apply(name="poison", schedule="* * * * *", missedRuns="All", input=poison)
        monkeypatch.setattr("stepwell.engine.tick_runs.check", lambda value, what: None)
        await stage.look()
        await stage.at("2026-11-20T12:03:00")
        await stage.look()
        (row,) = await stage.stage.query("SELECT count(*) AS runs FROM runs")
        assert row["runs"] == 5 * 3 + 2
        assert ("11-20T12:02", "InvalidInput") in await stage.ticks()


async def test_an_idempotency_key_leads_to_one_run(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        key = "day-{{ trigger.scheduledTime.substring(0, 10) }}"
        await stage.apply(schedule="0 * * * *", missedRuns="All", idempotencyKey=key, **AT)
        await stage.look()
        await stage.at("2026-11-20T14:00:00")
        await stage.look()
        await stage.at("2026-11-20T15:00:00")
        await stage.look()
        assert await stage.runs() == ["2026-11-20T13:00:00Z"]
        assert await stage.ticks() == [
            ("11-20T13:00", None),
            ("11-20T14:00", "Duplicate"),
            ("11-20T15:00", "Duplicate"),
        ]
        rows = await stage.stage.query("SELECT DISTINCT run_id FROM schedule_ticks")
        assert len(rows) == 1, "each tick tells the run that it led to"


async def test_jitter_is_the_same_for_everybody_and_stays_before_the_next_tick(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        for name in ("a", "b"):
            await stage.apply(name=name, schedule="0 * * * *", jitter="2h", **AT)
        await stage.look()
        rows = await stage.stage.query("SELECT tick_at, due_at FROM schedules")
        delays = [row["due_at"] - row["tick_at"] for row in rows]
        assert all(timedelta(0) < delay < timedelta(hours=1) for delay in delays)
        assert delays[0] != delays[1]
        stage.clock.now = max(row["due_at"] for row in rows) - timedelta(milliseconds=1)
        await stage.look()
        assert len(await stage.runs("a") + await stage.runs("b")) == 1
        stage.clock.now += timedelta(milliseconds=2)
        await stage.look()
        assert await stage.runs("a") == await stage.runs("b") == ["2026-11-20T13:00:00Z"]
        assert stage.leaders[0].notes.skipped == {}


# -- workflows change ---------------------------------------------------------------------------------------------------


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
        assert row["id"] == await _active(stage)
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
