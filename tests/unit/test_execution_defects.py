"""What actions and the engine itself do wrong stays with their step or run; limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_life import World, nothing, scene, until
from engine_specs import CONTINUE, document, effect, failing, failure, retry, scripted, shown, value
from virtual_time import EPOCH, virtual_time

from stepwell.domain.action import Call, Outcome
from stepwell.domain.documents import MAX_BYTES
from stepwell.domain.retry import NEVER, StepFailure
from stepwell.engine.attempt import GRACE

# -- what actions do wrong -----------------------------------------------------------------------------------------


@virtual_time
async def test_an_effect_that_ignores_its_timeout_is_ended() -> None:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(3600)

    async with scene({"steps": [effect("a", timeout="3s")]}, World(perform)) as s:
        await s.submit()
        assert await s.ended() == "failed"
        (record,) = s.database.attempts()
        assert record.finished_at == pytest.approx(EPOCH + (3 + GRACE) * 1_000_000, abs=10_000)
        assert document(record.error) == {"reason": "Timeout", "message": "the attempt took longer than 3 s"}


@virtual_time
async def test_an_actions_own_timeout_error_is_a_timeout_with_its_words() -> None:
    world = scripted(TimeoutError("the lock was not free"), 1)
    async with scene({"steps": [effect("a", retry=retry(1, retryOn=["Timeout"]))]}, world) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        first, _ = s.database.attempts()
        assert document(first.error) == {"reason": "Timeout", "message": "the lock was not free"}


@virtual_time
async def test_an_effects_unexpected_exception_fails_its_step_only() -> None:
    world = scripted(ZeroDivisionError("division by zero"))
    async with scene({"steps": [effect("a", **CONTINUE), value("b", "{{ steps.a.error.reason }}")]}, world) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert shown(s.database.attempts())["b"] == "InternalError"
        first = s.database.attempts()[0]
        message = "the action failed unexpectedly: ZeroDivisionError: division by zero"
        assert document(first.error)["message"] == message


class Defective:
    """A pure action, or the pure half of an effect, that raises what it should not."""

    def __init__(self, name: str, *, effect: bool) -> None:
        self.name = name
        self.effect = effect

    def compile(self, spec: Any, compiler: Any) -> Any:
        return self

    def retry(self, spec: Any) -> Any:
        return NEVER

    def shape(self, spec: Any, given: Any) -> None:
        return None

    def run(self, value: Any, context: Any) -> Any:
        raise TypeError("a defect")

    def render(self, value: Any, context: Any) -> Any:
        raise RecursionError("a defect")


@pytest.mark.parametrize("kind", ["transform", "httpCall"])
@virtual_time
async def test_a_defect_of_an_action_before_it_acts_fails_its_step_only(kind: str) -> None:
    actions = {kind: Defective(kind, effect=kind == "httpCall")}
    step = effect("a", **CONTINUE) if kind == "httpCall" else value("a", 1, **CONTINUE)
    async with scene({"steps": [step, failing("z", **CONTINUE)]}, actions=actions) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert document(s.database.attempts()[0].error)["reason"] == "InternalError"


@virtual_time
async def test_an_action_cancelled_from_within_fails_its_step_and_the_run_goes_on() -> None:
    world = scripted(asyncio.CancelledError())
    async with scene({"steps": [effect("a", **CONTINUE), value("b", 1)]}, world) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert document(s.database.attempts()[0].error)["message"] == "the action was cancelled from within"


@pytest.mark.parametrize("message", ["half of a character: \ud83d", "a NUL: \0", "long " * 10_000])
@virtual_time
async def test_an_error_message_of_any_kind_can_be_stored(message: str) -> None:
    world = scripted(StepFailure("Broken", message, final=True))
    async with scene({"steps": [effect("a")]}, world) as s:
        await s.submit()
        assert await s.ended() == "failed"
        (record,) = s.database.attempts()
        text = document(record.error)["message"]
        assert text[:4] == message[:4]
        assert len(text) <= 4000
        assert "\0" not in text


@virtual_time
async def test_what_stands_beside_a_failure_is_left_out_where_it_cannot_be_stored() -> None:
    world = scripted(failure(http={"status": 500, "headers": {"x": "\ud800"}}, final=True))
    async with scene({"steps": [effect("a", **CONTINUE), value("b", "{{ steps.a.http }}")]}, world) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert shown(s.database.attempts())["b"] is None


@virtual_time
async def test_what_stands_beside_a_result_is_stored_with_it() -> None:
    world = scripted(Outcome("text", {"status": 200}))
    async with scene({"steps": [effect("a"), value("b", "{{ steps.a.http.status }}")]}, world) as s:
        await s.submit()
        await s.ended()
        assert shown(s.database.attempts())["b"] == 200
        assert document(s.database.attempts()[0].http) == {"status": 200}


@pytest.mark.parametrize(
    "outcome", [object(), "\ud800", {1: 2}, 2**70, Outcome(1, {"x": object()}), Outcome(1, {"x": "\ud800"})]
)
@virtual_time
async def test_an_output_that_is_no_json_fails_the_step(outcome: Any) -> None:
    async with scene({"steps": [effect("a")]}, scripted(outcome)) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert document(s.database.attempts()[0].error)["reason"] == "InvalidResult"


# -- limits --------------------------------------------------------------------------------------------------------


@virtual_time
async def test_an_output_over_a_mebibyte_fails_its_step_with_the_limits_name() -> None:
    world = scripted("x" * (MAX_BYTES - 2), "x" * (MAX_BYTES - 1))
    async with scene({"steps": [effect("fits"), effect("over")]}, world) as s:
        await s.submit()
        assert await s.ended() == "failed"
        fits, over = s.database.attempts()
        assert fits.status == "succeeded"
        assert document(over.error) == {
            "reason": "OutputTooLarge",
            "message": "the output has 1,048,577 bytes; at most 1,048,576 are allowed",
        }


@virtual_time
async def test_outputs_over_sixteen_mebibytes_together_fail_the_step_that_exceeds_them() -> None:
    world = scripted(*["x" * (MAX_BYTES - 2)] * 16, "")
    async with scene({"steps": [effect(f"s{n}") for n in range(17)]}, world) as s:
        await s.submit()
        assert await s.ended() == "failed"
        records = s.database.attempts()
        assert [r.status for r in records] == ["succeeded"] * 16 + ["failed"]
        assert document(records[-1].error)["reason"] == "OutputsTooLarge"


@virtual_time
async def test_inputs_that_double_from_step_to_step_fail_before_they_are_built() -> None:
    steps: list[dict[str, Any]] = [value("a0", 1), value("b0", 1, needs=[])]
    for n in range(1, 60):
        needs = [f"a{n - 1}", f"b{n - 1}"]
        steps += [value(f"{side}{n}", 0, needs=needs, **{"if": "false"}) for side in "ab"]
    async with scene({"steps": steps}) as s:
        await s.submit()
        assert await s.ended() == "failed"
        record = s.database.attempts()[-1]
        assert document(record.error)["reason"] == "InputTooLarge"
        assert (record.input_from, record.input) == (None, b"null")


@virtual_time
async def test_a_chain_of_two_hundred_skipped_steps_hands_its_input_on_after_a_crash_too() -> None:
    skipped = [value(f"s{n}", 0, **{"if": "false"}) for n in range(198)]
    world = World(nothing)
    async with scene({"steps": [value("a", {"deep": 1}), *skipped, effect("z")]}, world) as s:
        answer = s.store.hold("flush")
        await s.submit()
        await until(lambda: len(s.database.attempts()) == 199)
        s.database.alive.clear()
        s.database.reap()
        s.dispatcher.lost(["r1"])
        answer.set()
        await s.offer("r1")
        assert await s.ended() == "succeeded"
        assert world.asked("z")[0]["input"] == {"deep": 1}
