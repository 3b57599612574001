"""`wait`, and effects that are deferred: nothing is held meanwhile, and whoever takes the run over finds the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from engine_life import World, scene, until
from engine_specs import document, effect, scripted, shown, value
from virtual_time import EPOCH, virtual_time

from stepwell.domain.action import Call, Deferred

HOUR = {"name": "pause", "wait": {"duration": "1h"}}


def json(value: object) -> str:
    return orjson.dumps(value).decode()


def until_step(text: str) -> dict[str, Any]:
    return {"name": "pause", "wait": {"until": text}}


@virtual_time
async def test_a_wait_parks_the_run_and_hands_on_what_it_was_given() -> None:
    spec = {"steps": [value("first", {"n": 7}), HOUR, value("last", "{{ n + 1 }}")]}
    async with scene(spec) as s:
        await s.submit()
        await until(lambda: s.database.rows["r1"].status == "waiting")
        row = s.database.rows["r1"]
        (first,) = s.database.attempts()
        due = row.due_at
        assert due == first.finished_at + 3_600_000_000
        assert (s.dispatcher.busy, s.dispatcher.active) == (0, {})
        await asyncio.sleep(3601)
        s.database.wake("r1")
        await s.offer("r1")
        assert await s.ended() == "succeeded"
        records = {r.step: r for r in s.database.attempts()}
        assert shown(list(records.values())) == {"first": {"n": 7}, "pause": None, "last": 8}
        assert records["pause"].started_at == first.finished_at
        assert records["pause"].finished_at >= due


@virtual_time
async def test_a_short_wait_keeps_its_slot() -> None:
    async with scene({"steps": [{"name": "pause", "wait": {"duration": "1500ms"}}, effect("a")]}) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert s.database.rows["r1"].claims == 1
        assert s.database.rows["r1"].finished_at == pytest.approx(EPOCH + 1_500_000, abs=50_000)


@virtual_time
async def test_a_run_woken_early_waits_on_for_the_same_moment() -> None:
    async with scene({"steps": [HOUR]}) as s:
        await s.submit()
        await until(lambda: s.database.rows["r1"].status == "waiting")
        due = s.database.rows["r1"].due_at
        await asyncio.sleep(600)
        s.database.wake("r1")
        await s.offer("r1")
        await until(lambda: s.database.rows["r1"].claims == 2 and s.database.rows["r1"].status == "waiting")
        assert s.database.rows["r1"].due_at == due
        assert s.database.attempts() == []


@virtual_time
async def test_other_branches_go_on_meanwhile() -> None:
    spec = {"steps": [HOUR, effect("beside", needs=[]), value("both", "{{ input }}", needs=["pause", "beside"])]}
    async with scene(spec) as s:
        await s.submit(input=json({"n": 1}))
        await until(lambda: s.database.rows["r1"].status == "waiting")
        assert [r.step for r in s.database.attempts()] == ["beside"]
        await asyncio.sleep(3601)
        s.database.wake("r1")
        await s.offer("r1")
        assert await s.ended() == "succeeded"
        assert document(s.database.attempts()[-1].output) == {"pause": {"n": 1}, "beside": {"done": "beside"}}


@virtual_time
async def test_a_moment_that_is_past_is_over_at_once() -> None:
    async with scene({"steps": [until_step("2001-01-01T00:00:00+02:00"), value("last", 1)]}) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert s.database.rows["r1"].claims == 1


@virtual_time
async def test_a_time_from_the_input() -> None:
    async with scene({"steps": [until_step("{{ run.input.at }}")]}) as s:
        await s.submit(input=json({"at": "2200-01-01T00:00:00Z"}))
        await until(lambda: s.database.rows["r1"].status == "waiting")
        assert s.database.rows["r1"].due_at == EPOCH + 720 * 3_600_000_000, "at the latest the run times out"


@pytest.mark.parametrize("text", ["tomorrow", "", "2031-01-01", "2031-01-01T08:00:00", "20310101T080000Z junk", "\x00"])
@virtual_time
async def test_what_is_no_time_fails_the_step(text: str) -> None:
    async with scene({"steps": [until_step("{{ run.input.at }}")]}) as s:
        await s.submit(input=json({"at": text}))
        assert await s.ended() == "failed"
        error = document(s.database.attempts()[0].error)
        assert error["reason"] == "InvalidTime"
        assert "is no time with its zone, such as 2026-01-31T08:00:00Z" in error["message"]


@virtual_time
async def test_a_condition_skips_a_wait() -> None:
    async with scene({"steps": [{**HOUR, "if": "false"}, value("last", "{{ n }}")]}) as s:
        await s.submit(input=json({"n": 3}))
        assert await s.ended() == "succeeded"
        assert shown(s.database.attempts()) == {"pause": None, "last": 3}


# -- deferred effects ------------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_deferred_effect_leaves_no_record_and_is_performed_again_when_the_run_is_woken() -> None:
    world = scripted(Deferred(), Deferred(), "done")
    async with scene({"steps": [effect("a")]}, world) as s:
        await s.submit()
        for claims in (1, 2):
            await until(lambda claims=claims: s.database.rows["r1"].status == "waiting" and len(world.calls) == claims)
            assert s.database.attempts() == []
            s.database.wake("r1")
            await s.offer("r1")
        assert await s.ended() == "succeeded"
        assert [call.attempt for call, _ in world.calls] == [1, 1, 1]


@virtual_time
async def test_a_deferred_effect_is_performed_again_at_its_time() -> None:
    world = scripted(Deferred(EPOCH + 1_000_000), "done")
    async with scene({"steps": [effect("a")]}, world) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert [call.now for call, _ in world.calls] == [EPOCH, pytest.approx(EPOCH + 1_000_000, abs=50_000)]


@virtual_time
async def test_a_wake_reaches_a_deferred_effect_while_another_branch_still_runs() -> None:
    """With the flush of any step of the run, though the run never left its worker."""
    asked: list[str] = []

    async def perform(call: Call, body: Any) -> Any:
        asked.append(call.step)
        if call.step == "gate" and asked.count("gate") == 1:
            raise Deferred
        if call.step == "slow":
            await asyncio.sleep(20)
        if call.step == "quick":
            await asyncio.sleep(5)
        return call.step

    spec = {"steps": [effect("gate"), effect("slow", needs=[]), effect("quick", needs=[])]}
    async with scene(spec, World(perform)) as s:
        await s.submit()
        await until(lambda: "gate" in asked)
        s.database.rows["r1"].wakes += 1
        assert await s.ended() == "succeeded"
        assert asked == ["gate", "slow", "quick", "gate"]
        assert s.database.rows["r1"].claims == 1


@virtual_time
async def test_what_is_deferred_ends_with_the_run() -> None:
    spec = {"steps": [effect("a")], "timeout": "1m"}
    async with scene(spec, scripted(Deferred(), Deferred())) as s:
        await s.submit()
        await until(lambda: s.database.rows["r1"].status == "waiting")
        assert s.database.rows["r1"].due_at == EPOCH + 60_000_000
        await asyncio.sleep(61)
        s.database.wake("r1")
        await s.offer("r1")
        assert await s.ended() == "timed_out"
