"""One run, executed: order, what steps hand on, what the run gives."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from engine_life import World, nothing, scene, until
from engine_specs import CONTINUE, document, effect, failing, failure, inputs, retry, scripted, shown, value
from virtual_time import EPOCH, virtual_time

from stepwell.domain.action import Call
from stepwell.engine.execution import Execution
from stepwell.engine.results import Results
from stepwell.engine.work import Work


@virtual_time
async def test_steps_run_in_the_order_of_the_list_and_hand_on_their_outputs() -> None:
    spec = {
        "steps": [value("a", {"n": "{{ x + 1 }}"}), value("b", {"n": "{{ n + 1 }}"}), value("c", {"n": "{{ n * 2 }}"})]
    }
    async with scene(spec) as s:
        await s.submit(input='{"x": 1}')
        assert await s.ended() == "succeeded"
        records = s.database.attempts()
        assert [r.step for r in records] == ["a", "b", "c"]
        assert shown(records) == {"a": {"n": 2}, "b": {"n": 3}, "c": {"n": 6}}
        assert inputs(records) == {"a": ("$run", None), "b": ("a", None), "c": ("b", None)}
        assert s.store.calls.count("flush") == 1


@virtual_time
async def test_needs_turn_the_order_round() -> None:
    spec = {"steps": [value("last", 1, needs=["first"]), value("first", 2, needs=[])]}
    async with scene(spec) as s:
        await s.submit()
        await s.ended()
        assert [r.step for r in s.database.attempts()] == ["first", "last"]


@virtual_time
async def test_steps_without_needs_start_at_once_and_together() -> None:
    running: list[str] = []
    together = asyncio.Event()

    async def perform(call: Call, body: Any) -> Any:
        running.append(call.step)
        if len(running) == 3:
            together.set()
        await together.wait()

    spec = {"steps": [effect("a"), effect("b", needs=[]), effect("c", needs=[])]}
    async with scene(spec, World(perform)) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert running == ["a", "b", "c"]


@virtual_time
async def test_several_needs_become_a_map_and_are_stored_as_references() -> None:
    spec = {
        "steps": [
            value("a", 1, needs=[]),
            value("b", 2, needs=[]),
            value("both", "{{ input }}", needs=["a", "b"]),
        ]
    }
    async with scene(spec) as s:
        await s.submit()
        await s.ended()
        assert shown(s.database.attempts())["both"] == {"a": 1, "b": 2}
        assert inputs(s.database.attempts())["both"] == ({"a": "a", "b": "b"}, None)


@virtual_time
async def test_a_map_within_a_map_is_stored_as_it_is() -> None:
    spec = {
        "steps": [
            value("a", 1, needs=[]),
            value("b", 2, needs=[]),
            value("both", 0, needs=["a", "b"], **{"if": "false"}),
            value("c", 3, needs=[]),
            value("all", "{{ input }}", needs=["both", "c"]),
        ]
    }
    async with scene(spec) as s:
        await s.submit()
        await s.ended()
        expected = {"both": {"a": 1, "b": 2}, "c": 3}
        assert shown(s.database.attempts())["all"] == expected
        assert inputs(s.database.attempts())["all"] == (None, expected)


@virtual_time
async def test_a_skipped_step_hands_on_its_input_and_that_of_a_map_too() -> None:
    spec = {
        "steps": [
            value("a", {"n": 1}),
            value("skipped", 0, **{"if": "n > 5"}),
            value("b", "{{ input }}"),
            value("seen", "{{ steps.skipped }}"),
        ]
    }
    async with scene(spec) as s:
        await s.submit()
        await s.ended()
        assert shown(s.database.attempts())["b"] == {"n": 1}
        assert inputs(s.database.attempts())["b"] == ("a", None)
        assert shown(s.database.attempts())["seen"] == {
            "output": None,
            "status": "Skipped",
            "error": None,
            "http": None,
        }


@virtual_time
async def test_a_continued_failure_hands_on_its_input_and_says_why() -> None:
    spec = {
        "steps": [
            value("a", {"n": 1}),
            failing("f", **CONTINUE),
            value("b", "{{ input }}"),
            value("why", "{{ steps.f }}"),
        ]
    }
    async with scene(spec) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert shown(s.database.attempts())["b"] == {"n": 1}
        seen = shown(s.database.attempts())["why"]
        assert seen == {
            "output": None,
            "status": "Failed",
            "error": {"reason": "Failed", "message": "no"},
            "http": None,
        }


@virtual_time
async def test_a_failure_ends_the_run_with_the_step_and_its_error() -> None:
    spec = {"steps": [value("a", 1), failing("f"), value("never", 2)]}
    async with scene(spec) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert [r.step for r in s.database.attempts()] == ["a", "f"]
        end = s.database.rows["r1"].end
        assert end is not None
        assert document(end.error) == {"reason": "Failed", "message": "no", "step": "f"}
        assert end.output is None


@virtual_time
async def test_after_a_failure_nothing_starts_that_could_have_started_at_the_same_moment() -> None:
    world = World(nothing)
    spec = {"steps": [failing("f"), value("pure", 1, needs=[]), effect("call", needs=[])]}
    async with scene(spec, world) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert [r.step for r in s.database.attempts()] == ["f"]
        assert world.calls == []


@virtual_time
async def test_after_a_failure_what_is_in_flight_ends_and_is_recorded() -> None:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(10 if call.step == "slow" else 1)
        if call.step == "quick":
            raise failure()

    world = World(perform)
    spec = {"steps": [effect("slow"), effect("quick", needs=[]), effect("next", needs=["slow"])]}
    async with scene(spec, world) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert [(r.step, r.status) for r in s.database.attempts()] == [("quick", "failed"), ("slow", "succeeded")]
        assert s.database.rows["r1"].finished_at == EPOCH + 10_000_000


@virtual_time
async def test_conditions_are_asked_once_and_not_again_at_a_retry() -> None:
    spec = {"steps": [effect("a", retry=retry(2), **{"if": "now() == run.createdAt || true"})]}
    world = scripted(failure(), failure(), 1)
    asked = []
    async with scene(spec, world) as s:
        await s.submit()
        await until(lambda: s.dispatcher.active)
        step = s.dispatcher.active["r1"].loaded.revision.steps[0]
        assert step.condition is not None
        original = step.condition._evaluate
        step.condition._evaluate = lambda context: asked.append(1) or original(context)
        assert await s.ended() == "succeeded"
    assert len(world.calls) == 3
    assert asked == []


@pytest.mark.parametrize(
    ("last", "output", "origin"),
    [
        (value("z", 7), None, "z"),
        (value("z", 7, **{"if": "false"}), None, None),
        (failing("z", **CONTINUE), None, None),
    ],
)
@virtual_time
async def test_the_output_is_that_of_the_last_step(last: dict[str, Any], output: Any, origin: str | None) -> None:
    async with scene({"steps": [value("a", 1), last]}) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        end = s.database.rows["r1"].end
        assert end is not None
        assert (end.output, end.output_from) == (output, origin)


@virtual_time
async def test_an_output_template_sees_all_steps() -> None:
    spec = {"steps": [value("a", 1), value("b", 2)], "output": {"sum": "{{ steps.a.output + steps.b.output }}"}}
    async with scene(spec) as s:
        await s.submit()
        await s.ended()
        end = s.database.rows["r1"].end
        assert end is not None
        assert (document(end.output), end.output_from) == ({"sum": 3}, None)


@virtual_time
async def test_an_output_that_cannot_be_rendered_fails_the_run() -> None:
    spec = {"steps": [value("a", {"n": 1})], "output": "{{ steps.a.output.missing }}"}
    async with scene(spec) as s:
        await s.submit()
        assert await s.ended() == "failed"
        end = s.database.rows["r1"].end
        assert end is not None
        assert document(end.error)["reason"] == "OutputFailed"
        assert "missing" in document(end.error)["message"]
        assert [r.step for r in s.database.attempts()] == ["a"]


@virtual_time
async def test_what_has_ended_is_freed_without_a_garbage_collection() -> None:
    async with scene({"steps": [effect("a"), value("b", 1)]}) as s:
        gc.collect()
        before = {id(found) for found in gc.get_objects()}
        gc.disable()
        try:
            for n in range(5):
                await s.submit(f"r{n}")
                assert await s.ended(f"r{n}") == "succeeded"
            await until(lambda: not s.dispatcher.active)
            found = [found for found in gc.get_objects() if isinstance(found, Execution | Work | Results)]
            kept = [type(one) for one in found if id(one) not in before]
        finally:
            gc.enable()
        assert all(kept.count(kind) <= 1 for kind in kept), "the journal remembers its last batch, and nothing else"
