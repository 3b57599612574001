"""What a cron trigger says: how its runs meet each other, their input, keys and jitter."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cron_stage import AT, cron_stage


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


async def test_triggers_of_one_time_do_not_see_each_other_and_who_waits_has_not_ended(database: str) -> None:
    async with cron_stage(database, "2026-11-20T12:00:00") as stage:
        policies = {"a": "Forbid", "b": "Forbid", "c": "Replace", "d": "Allow"}
        triggers = [
            {"name": name, "cron": {"schedule": "0 * * * *", "concurrencyPolicy": policy}}
            for name, policy in policies.items()
        ]
        await stage.apply_spec("nightly", {"triggers": triggers})
        await stage.look()
        for hour in (13, 14):
            await stage.at(f"2026-11-20T{hour}:00:00")
            await stage.look()
            await stage.stage.query("UPDATE runs SET status = 'waiting' WHERE status = 'queued'")
        rows = await stage.stage.query("SELECT trigger, status FROM runs ORDER BY trigger, created_at, id")
        assert sorted((row["trigger"], row["status"]) for row in rows) == [
            ("a", "waiting"), ("b", "waiting"), ("c", "cancelled"), ("c", "waiting"), ("d", "waiting"), ("d", "waiting"),
        ]  # fmt: skip
        assert stage.leaders[0].notes.skipped == {"Forbidden": 2}


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
                                 revision_id=await stage.active())  # fmt: skip
        await stage.at("2026-11-20T16:00:00")
        await stage.look()
        assert (await stage.ticks())[-1] == ("11-20T16:00", None), "a run of the API is none of the trigger's"


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
