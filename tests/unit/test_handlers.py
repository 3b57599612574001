"""What comes after the steps: when handlers run, what they see, what they change, and that their time is bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from engine_life import Scene, World, actions_of, load, nothing, scene, until
from engine_specs import CONTINUE, document, effect, failing, failure, inputs, retry, shown, value
from memory_store import MemoryQueue
from virtual_time import EPOCH, virtual_time

from stepwell.domain.action import Call
from stepwell.domain.errors import InputError
from stepwell.domain.handlers import BUDGET, LATE, budget_end, final_status, following
from stepwell.domain.ids import uuid7
from stepwell.domain.revision import Part
from stepwell.domain.secret_uses import secret_uses
from stepwell.domain.spec import WorkflowSpec
from stepwell.domain.states import RunStatus
from stepwell.engine.control import Control
from stepwell.engine.ports import ReadyRun
from stepwell.engine.reruns import finished_steps, steps_before

if TYPE_CHECKING:
    from collections.abc import Sequence

ACTIONS = actions_of(World(nothing))
MINUTES = BUDGET / 1e6
BAD = [status for status in RunStatus if status.final and status is not RunStatus.SUCCEEDED]


def hanging(*names: str) -> World:
    """Effects of these names never come to an end; the others do at once."""

    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(1e6 if call.step in names else 0)
        return {"by": call.step}

    return World(perform)


def steps(s: Scene) -> list[str]:
    return [record.step for record in s.database.attempts()]


def error(s: Scene) -> Any:
    end = s.database.rows["r1"].end
    assert end is not None
    return document(end.error)


# -- when ----------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_on_failure_runs_after_a_failure_then_finally() -> None:
    spec = {
        "steps": [failing("a"), value("b", 1)],
        "onFailure": [value("c", 1), value("d", 1)],
        "finally": [value("e", 1)],
    }
    async with scene(spec) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert steps(s) == ["a", "c", "d", "e"]
        assert error(s) == {"reason": "Failed", "message": "no", "step": "a"}


@virtual_time
async def test_after_a_success_only_finally_runs_and_the_output_stays() -> None:
    spec = {"steps": [value("a", 7)], "onFailure": [value("c", 1)], "finally": [value("d", 8)]}
    async with scene(spec) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert steps(s) == ["a", "d"]
        row = s.database.rows["r1"]
        assert row.end is row.outcome
        assert row.outcome is not None
        assert row.outcome.output_from == "a"


@virtual_time
async def test_an_output_that_cannot_be_made_is_a_failure_too() -> None:
    spec = {"steps": [value("a", {})], "output": "{{ steps.a.output.x }}", "onFailure": [value("c", "{{ error }}")]}
    async with scene(spec) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert shown(s.database.attempts())["c"]["reason"] == "OutputFailed"


@virtual_time
async def test_a_run_that_takes_too_long_runs_its_handlers() -> None:
    spec = {"steps": [effect("a", timeout="1h")], "timeout": "10s", "onFailure": [effect("c")]}
    world = hanging("a")
    async with scene(spec, world) as s:
        await s.submit()
        assert await s.ended(within=60) == "timed_out"
        assert [call.step for call, _ in world.calls] == ["a", "c"]
        assert error(s)["reason"] == "RunTimedOut"


@virtual_time
async def test_attempts_in_flight_end_before_handlers_begin() -> None:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(5 if call.step == "slow" else 1)
        if call.step == "a":
            raise failure()

    spec = {"steps": [effect("slow"), effect("a", needs=[])], "onFailure": [value("c", "{{ steps.slow.status }}")]}
    async with scene(spec, World(perform)) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert shown(s.database.attempts())["c"] == "Succeeded"


@virtual_time
async def test_a_retry_that_was_due_later_is_over() -> None:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(1 if call.step == "b" else 0)
        raise failure()

    spec = {"steps": [effect("a", retry=retry(3, "1h")), effect("b", needs=[])], "onFailure": [value("c", 1)]}
    async with scene(spec, World(perform)) as s:
        await s.submit()
        assert await s.ended(within=10) == "failed"
        assert [(r.step, r.attempt) for r in s.database.attempts()] == [("a", 1), ("b", 1), ("c", 1)]


# -- what they see -------------------------------------------------------------------------------------------------------


@virtual_time
async def test_handlers_see_the_error_and_what_became_of_the_steps() -> None:
    see = {"error": "{{ error }}", "a": "{{ steps.a }}", "b": "{{ steps.b }}", "c": "{{ steps.c }}", "x": "{{ x }}"}
    spec = {"steps": [value("a", 1), failing("b"), value("c", 1)], "onFailure": [value("d", see)]}
    async with scene(spec) as s:
        await s.submit(input='{"x": 1}')
        assert await s.ended() == "failed"
        why = {"reason": "Failed", "message": "no"}
        assert shown(s.database.attempts())["d"] == {
            "error": {**why, "step": "b"},
            "a": {"output": 1, "status": "Succeeded", "error": None, "http": None},
            "b": {"output": None, "status": "Failed", "error": why, "http": None},
            "c": {"output": None, "status": "Skipped", "error": None, "http": None},
            "x": 1,
        }


@virtual_time
async def test_without_an_error_it_is_null_and_without_a_step_that_is() -> None:
    spec = {
        "steps": [effect("a")],
        "timeout": "1s",
        "finally": [value("b", "{{ error == null ? 'well' : error.step }}")],
    }
    for world, expected in ((World(nothing), "well"), (hanging("a"), None)):
        async with scene(spec, world) as s:
            await s.submit()
            await s.ended()
            assert shown(s.database.attempts())["b"] == expected


@virtual_time
async def test_every_handler_is_given_the_runs_input() -> None:
    spec = {"steps": [failing("a")], "onFailure": [value("b", 1), value("c", "{{ steps.b.output + x }}")]}
    async with scene(spec) as s:
        await s.submit(input='{"x": 1}')
        await s.ended()
        assert shown(s.database.attempts())["c"] == 2
        assert inputs(s.database.attempts())["c"] == ("$run", None)


@virtual_time
async def test_handlers_order_each_other_skip_go_on_and_retry_as_steps_do() -> None:
    async def perform(call: Call, body: Any) -> Any:
        if call.step == "c" and call.attempt < 3:
            raise failure()
        return {}

    handlers = [
        value("b", 1, needs=["c", "d"]), effect("c", needs=[], retry=retry(2, "500ms")), failing("d", needs=[], **CONTINUE),
        value("e", 1, **{"if": "false"}),
    ]  # fmt: skip
    async with scene({"steps": [failing("a")], "onFailure": handlers}, World(perform)) as s:
        await s.submit()
        assert await s.ended() == "failed"
        found = [(r.step, r.attempt, r.status.value) for r in s.database.attempts()[1:]]
        assert found == [
            ("d", 1, "failed"), ("e", 1, "skipped"), ("c", 1, "failed"), ("c", 2, "failed"), ("c", 3, "succeeded"),
            ("b", 1, "succeeded"),
        ]  # fmt: skip


@virtual_time
async def test_a_handler_has_a_key_of_its_own_and_now_is_when_its_list_began() -> None:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(3)
        if call.step == "a" or (call.step == "c" and call.attempt == 1):
            raise failure()

    world = World(perform)
    spec = {"steps": [effect("a")], "onFailure": [effect("c", retry=retry(1, "1s"))], "finally": [effect("d")]}
    async with scene(spec, world) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert [call.idempotency_key for call, _ in world.calls] == ["r1/a", "r1/c", "r1/c", "r1/d"]
        times = [body["now"] for _, body in world.calls]
        assert times[1] == times[2], "the same request"
        assert [time[-3:-1] for time in times[1:]] == ["03", "03", "10"]


# -- what they change ----------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_failing_on_failure_hides_nothing_and_finally_still_runs() -> None:
    spec = {"steps": [failing("a")], "onFailure": [failing("b"), value("c", 1)], "finally": [value("d", 1)]}
    async with scene(spec) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert steps(s) == ["a", "b", "d"]
        assert error(s)["step"] == "a"


@virtual_time
async def test_a_failing_finally_fails_a_run_that_had_succeeded() -> None:
    async with scene({"steps": [value("a", 1)], "finally": [failing("b"), value("c", 1)]}) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert error(s) == {"reason": "Failed", "message": "no", "step": "b"}
        assert steps(s) == ["a", "b"]


@virtual_time
async def test_a_failing_finally_leaves_an_earlier_error() -> None:
    async with scene({"steps": [failing("a")], "finally": [failing("b")]}) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert error(s)["step"] == "a"


@pytest.mark.parametrize("outcome", [status for status in RunStatus if status.final])
@pytest.mark.parametrize("ended", [RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.TIMED_OUT])
@pytest.mark.parametrize("part", [Part.ON_FAILURE, Part.FINALLY])
def test_only_finally_spoils_and_only_a_success(outcome: RunStatus, part: Part, ended: RunStatus) -> None:
    spoilt = part is Part.FINALLY and outcome is RunStatus.SUCCEEDED and ended is not RunStatus.SUCCEEDED
    assert final_status(outcome, part, ended) == ("failed" if spoilt else outcome)


# -- cancel --------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_cancel_aborts_the_steps_and_runs_the_handlers() -> None:
    spec = {
        "steps": [effect("a", timeout="1h")],
        "onFailure": [value("b", "{{ error.reason }}")],
        "finally": [effect("c")],
    }
    async with scene(spec, hanging("a")) as s:
        await s.submit()
        await until(lambda: s.dispatcher.active)
        s.database.cancel("r1")
        s.dispatcher.cancel(["r1"])
        assert await s.ended(within=5) == "cancelled"
        assert shown(s.database.attempts()) == {"b": "Cancelled", "c": {"by": "c"}}
        assert error(s)["reason"] == "Cancelled"


@virtual_time
async def test_a_waiting_run_that_is_cancelled_comes_back_for_its_handlers() -> None:
    spec = {"steps": [{"name": "a", "wait": {"duration": "1h"}}], "finally": [value("b", "{{ error.reason }}")]}
    async with scene(spec) as s:
        await s.submit()
        await until(lambda: s.database.rows["r1"].status == "waiting")
        s.database.cancel("r1")
        assert s.database.rows["r1"].status == "queued"
        await s.offer("r1")
        assert await s.ended(within=5) == "cancelled"
        assert shown(s.database.attempts()) == {"b": "Cancelled"}


@virtual_time
async def test_who_cancels_a_run_with_handlers_offers_it_to_the_workers() -> None:
    class Store:
        async def cancel(self, namespace: str, ids: Sequence[str]) -> dict[str, str]:
            return {ids[0]: "queued", ids[1]: "cancelled"}

    queue, ids = MemoryQueue(), [uuid7(EPOCH // 1000, bytes(10)), "other"]
    await Control(Store(), queue).cancel("shop", ids)  # type: ignore[arg-type]
    assert queue.added == [ReadyRun(ids[0], "shop", EPOCH // 1000)]


@virtual_time
async def test_a_cancel_before_the_first_claim_ends_the_run_at_once() -> None:
    async with scene({"steps": [value("a", 1)], "finally": [value("b", 1)]}) as s:
        s.database.add("r1")
        s.database.cancel("r1")
        assert s.database.rows["r1"].status == "cancelled"


@virtual_time
async def test_a_cancel_while_handlers_run_changes_nothing() -> None:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(10)

    async with scene({"steps": [value("a", 1)], "finally": [effect("b"), effect("c")]}, World(perform)) as s:
        await s.submit()
        await until(lambda: s.database.rows["r1"].outcome)
        s.database.cancel("r1")
        s.dispatcher.cancel(["r1"])
        assert await s.ended() == "succeeded"
        assert steps(s) == ["a", "b", "c"]


# -- bounds --------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_each_list_has_five_minutes() -> None:
    lists = {"onFailure": [effect("b", timeout="1h"), value("c", 1)], "finally": [effect("d", timeout="1h")]}
    world = hanging("b", "d")
    async with scene({"steps": [failing("a")], **lists}, world) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert s.database.rows["r1"].finished_at == pytest.approx(EPOCH + 2 * BUDGET, abs=1e6)
        assert [call.step for call, _ in world.calls] == ["b", "d"]
        assert error(s)["step"] == "a"


@virtual_time
async def test_a_finally_that_takes_too_long_fails_the_run() -> None:
    async with scene({"steps": [value("a", 1)], "finally": [effect("b", timeout="1h")]}, hanging("b")) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert error(s) == {"reason": "HandlersTimedOut", "message": "finally took longer than 300 s"}


@virtual_time
async def test_a_wait_in_a_handler_parks_the_run_within_its_time() -> None:
    lists = {
        "onFailure": [
            {"name": "b", "wait": {"duration": "2m"}},
            value("c", 1),
            {"name": "d", "wait": {"duration": "1h"}},
        ]
    }
    async with scene({"steps": [failing("a")], "timeout": "1s", **lists}) as s:
        await s.submit()
        for due in (120, MINUTES):
            await until(lambda: s.database.rows["r1"].status == "waiting")
            row = s.database.rows["r1"]
            assert row.due_at == pytest.approx(EPOCH + due * 1e6, abs=1e6)
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            s.database.wake("r1")
            await s.offer("r1")
        assert await s.ended(within=5) == "failed"
        assert steps(s) == ["a", "b", "c"]


def test_a_budget_that_ran_out_while_nobody_was_there_begins_anew() -> None:
    assert budget_end(100, 100 + LATE) == 100
    assert budget_end(100, 101 + LATE) == 101 + LATE + BUDGET
    assert budget_end(100, 50) == 100


@virtual_time
async def test_outputs_of_handlers_have_room_of_their_own() -> None:
    large = [value(f"s{n}", "x" * 1_000_000, needs=[]) for n in range(17)]

    async def perform(call: Call, body: Any) -> Any:
        return "told"

    async with scene({"steps": large, "onFailure": [effect("b")]}, World(perform)) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert error(s)["reason"] == "OutputsTooLarge"
        assert shown(s.database.attempts())["b"] == "told"


# -- what goes wrong -----------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_run_whose_records_are_refused_runs_its_handlers() -> None:
    see = {"reason": "{{ error.reason }}", "b": "{{ steps.b.status }}"}
    async with scene({"steps": [effect("a"), effect("b")], "onFailure": [effect("c"), value("d", see)]}) as s:
        s.store.poison.add("r1/b")
        await s.submit()
        assert await s.ended() == "failed"
        assert steps(s) == ["a", "c", "d"]
        assert shown(s.database.attempts())["d"] == {"reason": "RecordRefused", "b": "Skipped"}
        assert error(s)["reason"] == "RecordRefused"


@virtual_time
async def test_a_handler_whose_record_is_refused_ends_its_list() -> None:
    async with scene({"steps": [failing("a")], "onFailure": [effect("b")], "finally": [value("c", 1)]}) as s:
        s.store.poison.add("r1/b")
        await s.submit()
        assert await s.ended() == "failed"
        assert steps(s) == ["a", "c"]
        assert error(s)["step"] == "a"


@virtual_time
async def test_a_worker_that_drains_hands_a_run_back_between_its_handlers() -> None:
    async def perform(call: Call, body: Any) -> Any:
        await asyncio.sleep(2)

    async with scene({"steps": [failing("a")], "onFailure": [effect("b"), effect("c")]}, World(perform)) as s:
        await s.submit()
        await until(lambda: s.database.rows["r1"].outcome)
        await s.dispatcher.drain(grace=10)
        row = s.database.rows["r1"]
        assert (row.status, steps(s)) == ("queued", ["a", "b"])
        assert row.until == row.at + BUDGET


@virtual_time
async def test_a_run_with_pure_handlers_costs_two_flushes() -> None:
    async with scene({"steps": [failing("a")], "onFailure": [value("b", 1), value("c", 1)]}) as s:
        await s.submit()
        await s.ended()
        assert s.store.calls.count("flush") == 2


# -- around them ---------------------------------------------------------------------------------------------------------

BOTH = {"steps": [value("a", 1), value("b", 1)], "onFailure": [value("c", 1)], "finally": [value("d", 1)]}


def test_a_repeated_run_takes_no_handler_over_and_begins_at_none() -> None:
    loaded = load(BOTH, ACTIONS)
    results = dict.fromkeys("abcd", "succeeded")
    assert finished_steps(loaded, results) == ["a", "b"]
    assert steps_before(loaded, results, "b") == ["a"]
    with pytest.raises(InputError, match=r"no step 'c'; its steps are a, b$"):
        steps_before(loaded, results, "c")


def test_secrets_of_handlers_are_those_of_steps() -> None:
    url = {"url": "https://a.example"}
    told = {"name": "c", "httpCall": {**url, "auth": {"bearer": {"secretRef": {"name": "chat", "key": "k"}}}}}
    tidied = {"name": "d", "httpCall": {**url, "auth": {"basic": {"secretName": "store"}}}}
    spec = WorkflowSpec.model_validate({"steps": [value("a", 1)], "onFailure": [told], "finally": [tidied]})
    assert secret_uses(spec).steps == {"chat", "store"}


@pytest.mark.parametrize("outcome", BAD)
def test_the_lists_follow_each_other(outcome: RunStatus) -> None:
    one = {"steps": [value("a", 1)]}
    both = load({**one, "onFailure": [value("b", 1)], "finally": [value("c", 1)]}, ACTIONS).revision
    none = load(one, ACTIONS).revision
    assert following(both, Part.STEPS, outcome) is Part.ON_FAILURE
    assert following(both, Part.STEPS, RunStatus.SUCCEEDED) is Part.FINALLY
    assert following(both, Part.ON_FAILURE, outcome) is Part.FINALLY
    assert following(both, Part.FINALLY, outcome) is None
    assert following(none, Part.STEPS, outcome) is None
