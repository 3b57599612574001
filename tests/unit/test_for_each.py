"""A step that runs for each item of a list: what it may state, what it gives, and how its items run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from engine_life import Life, World, actions_of, scene, until
from engine_specs import document, effect, failing, failure, retry, value
from memory_store import Database
from virtual_time import EPOCH, virtual_time

from stepwell.actions.registry import default_actions
from stepwell.domain.compile import compile_revision
from stepwell.domain.errors import ManifestError
from stepwell.domain.spec import WorkflowSpec
from stepwell.domain.support import language_features
from stepwell.engine.journal import MAX_BYTES, MAX_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.domain.action import Call
    from stepwell.engine.ports import AttemptRecord

ITEMS = '{"list": [10, 20, 30, 40]}'
ALL = {"items": "{{ input.list }}"}


def each(
    name: str = "a", items: Any = "{{ input.list }}", *, parallel: int | None = None, **fields: Any
) -> dict[str, Any]:
    """A step with an effect whose request tells the item."""
    stated = {"items": items} if parallel is None else {"items": items, "maxParallel": parallel}
    step = effect(name, forEach=stated, **fields)
    step["httpCall"] = {
        **step["httpCall"],
        "body": {"item": "{{ item }}", "index": "{{ index }}", "now": "{{ now() }}"},
    }
    return step


def by_item(do: Callable[[int, int], Any]) -> World:
    """Effects by index and attempt."""

    async def perform(call: Call, body: Any) -> Any:
        assert call.item == body["index"]
        result = do(call.item, call.attempt)
        if isinstance(result, BaseException):
            raise result
        return await result if asyncio.iscoroutine(result) else result

    return World(perform)


def rows(database: Database, step: str = "a") -> list[tuple[int, int, str]]:
    return [(r.item, r.attempt, str(r.status)) for r in database.attempts() if r.step == step]


def own(database: Database, step: str = "a") -> AttemptRecord:
    found = database.final_record("r1", step)
    assert found is not None
    return found


# -- what a manifest may state -------------------------------------------------------------------------------------------


def refusals(*steps: dict[str, Any]) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        compile_revision(WorkflowSpec.model_validate({"steps": steps}), default_actions())
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ({"name": "a", "forEach": ALL, "wait": {"duration": "1s"}}, "spec.steps[0].forEach: wait is not run for each item"),
        ({"name": "a", "forEach": ALL, "approval": {}}, "spec.steps[0].forEach: approval is not run for each item"),
        (value("a", 1, forEach={"items": "abc"}), "spec.steps[0].forEach.items: must be a list, or one"),
        (value("a", 1, forEach={"items": "a {{ input.list }}"}), "spec.steps[0].forEach.items: must be a list, or one"),
        (value("a", 1, forEach={"items": {"a": 1}}), "spec.steps[0].forEach.items: must be a list, or one"),
        (value("a", 1, forEach={"items": 3}), "spec.steps[0].forEach.items: must be a list, or one"),
        (value("a", 1, forEach={"items": "{{ input. }}"}), "spec.steps[0].forEach.items: input."),
        (value("a", 1, forEach={"items": "{{ input.list"}), "spec.steps[0].forEach.items: {{ at character 1 is not closed"),
        (value("a", 1, forEach={"items": [1, 2, 3], "maxItems": 2}), "spec.steps[0].forEach.items: has 3 items; maxItems allows 2"),
        (value("a", 1, forEach={"items": "{{ [item] }}"}), "spec.steps[0].forEach.items: [item]: the variable item is not available here"),
        (value("a", 1, forEach={"items": ["{{ index }}"]}), "spec.steps[0].forEach.items[0]: index: the variable index is not available here"),
        (value("a", 1, forEach=ALL, **{"if": "item > 1"}), "spec.steps[0].if: item > 1: the variable item is not available here"),
        (value("a", "{{ item }}"), "spec.steps[0].transform.value: item: the variable item is not available here"),
    ],
)  # fmt: skip
def test_what_is_refused_at_apply(step: dict[str, Any], problem: str) -> None:
    (found,) = refusals(step)
    assert found.startswith(problem)


def test_a_revision_says_that_it_uses_it() -> None:
    spec = WorkflowSpec.model_validate({"steps": [value("a", "{{ item }}", forEach=ALL)]})
    assert language_features(spec) == ["forEach", "transform"]
    assert compile_revision(spec, default_actions()).steps[0].for_each is not None


# -- what it gives -------------------------------------------------------------------------------------------------------


@virtual_time
async def test_the_output_is_the_list_of_outputs_in_order_and_the_next_step_gets_it() -> None:
    steps = [
        value("a", {"n": "{{ index }}", "twice": "{{ item * 2 }}"}, forEach=ALL),
        value("b", {"got": "{{ input }}", "seen": "{{ steps.a }}"}),
    ]
    async with scene({"steps": steps}) as s:
        await s.submit(input=ITEMS)
        assert await s.ended() == "succeeded"
        listed = [{"n": n, "twice": 20 * (n + 1)} for n in range(4)]
        records = s.database.attempts()
        assert [document(r.output) for r in records if r.item >= 0] == listed
        assert [document(r.input) for r in records if r.item >= 0] == [10, 20, 30, 40]
        assert [r.items for r in records if r.step == "a"] == [4] * 5
        assert own(s.database).output is None, "the list is stored with its items, and not again"
        assert document(own(s.database).input_from) == "$run"
        seen = {"output": listed, "status": "Succeeded", "error": None, "http": None}
        assert document(own(s.database, "b").output) == {"got": listed, "seen": seen}
        assert document(own(s.database, "b").input_from) == "a"
        assert len(s.store.flushed) == 1, "items are rows of one flush"


@virtual_time
async def test_an_empty_list_gives_an_empty_list() -> None:
    async with scene({"steps": [each(items=[]), value("b", "{{ input }}")]}) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert rows(s.database) == [(-1, 1, "succeeded")]
        assert document(own(s.database).output) == document(own(s.database, "b").output) == []


@virtual_time
async def test_items_of_a_literal_list_may_be_templates() -> None:
    async with scene({"steps": [value("a", "{{ item }}", forEach={"items": ["x", "{{ run.id }}", 3]})]}) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert [document(r.output) for r in s.database.attempts() if r.item >= 0] == ["x", "r1", 3]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("{{ input }}", "forEach.items is to be a list, and it is an object"),
        ("{{ null }}", "forEach.items is to be a list, and it is null"),
        ("{{ 'abc' }}", "forEach.items is to be a list, and it is text"),
        ("{{ input.list + input.list }}", "forEach.items has 8 items; maxItems allows 7"),
        ("{{ input.absent }}", "input.absent: "),
    ],
)
@virtual_time
async def test_what_is_no_list_or_too_long_fails_the_step(items: Any, message: str) -> None:
    step = value("a", 1, forEach={"items": items, "maxItems": 7}, retry=retry(3))
    async with scene({"steps": [step]}) as s:
        await s.submit(input=ITEMS)
        assert await s.ended() == "failed"
        assert rows(s.database) == [(-1, 1, "failed")]
        assert document(own(s.database).error)["message"].startswith(message)


@virtual_time
async def test_a_continued_failure_to_find_the_items_hands_on_the_input() -> None:
    steps = [value("a", 1, forEach={"items": "{{ 1 }}"}, onError="Continue"), value("b", "{{ input }}")]
    async with scene({"steps": steps}) as s:
        await s.submit(input=ITEMS)
        assert await s.ended() == "succeeded"
        assert document(own(s.database, "b").output) == {"list": [10, 20, 30, 40]}


@virtual_time
async def test_a_condition_is_tested_once_before_there_are_items() -> None:
    async with scene({"steps": [each(**{"if": "size(input.list) > 9"}), value("b", "{{ steps.a }}")]}) as s:
        await s.submit(input=ITEMS)
        assert await s.ended() == "succeeded"
        assert rows(s.database) == [(-1, 1, "skipped")]
        assert document(own(s.database, "b").output)["status"] == "Skipped"


# -- failures ------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_with_continue_an_item_that_fails_is_null_and_the_step_tells_of_it() -> None:
    world = by_item(lambda item, _: failure() if item in {1, 3} else {"n": item})
    steps = [each(onError="Continue"), value("b", {"list": "{{ input }}", "why": "{{ steps.a.error }}"})]
    async with scene({"steps": steps}, world) as s:
        await s.submit(input=ITEMS)
        assert await s.ended() == "succeeded"
        found = document(own(s.database, "b").output)
        assert found["list"] == [{"n": 0}, None, {"n": 2}, None]
        assert found["why"] == {
            "reason": "ItemsFailed", "message": "2 of 4 items failed, first item 1: it broke", "index": 1, "failed": 2,
        }  # fmt: skip


@virtual_time
async def test_with_fail_nothing_new_starts_what_is_in_flight_is_recorded_and_the_error_names_the_item() -> None:
    async def slow() -> str:
        await asyncio.sleep(1.0)
        return "late"

    async def broken() -> None:
        await asyncio.sleep(0.5)
        raise failure()

    world = by_item(lambda item, _: broken() if item == 1 else slow())
    steps = [each(parallel=3), effect("other", needs=[])]
    world.perform, inner = (lambda call, body: slow() if call.step == "other" else inner(call, body)), world.perform
    async with scene({"steps": steps}, world) as s:
        await s.submit(input=ITEMS)
        assert await s.ended() == "failed"
        found = rows(s.database)
        assert (found[0], found[-1]) == ((1, 1, "failed"), (-1, 1, "failed"))
        assert sorted(found[1:3]) == [(0, 1, "succeeded"), (2, 1, "succeeded")]
        assert len(found) == 4
        assert rows(s.database, "other") == [(-1, 1, "succeeded")]
        end = s.database.rows["r1"].end
        assert end is not None
        error = {"reason": "Broken", "message": "item 1: it broke", "index": 1}
        assert document(end.error) == {**error, "step": "a"}
        assert document(own(s.database).error) == error


@virtual_time
async def test_fail_under_for_each_names_the_first_item() -> None:
    async with scene({"steps": [failing("a", forEach={"items": [1, 2]})]}) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert rows(s.database) == [(0, 1, "failed"), (-1, 1, "failed")]
        assert document(own(s.database).error)["message"] == "item 0: no"


@virtual_time
async def test_each_item_is_tried_again_on_its_own_with_its_own_key_and_the_same_request() -> None:
    world = by_item(lambda item, attempt: failure() if attempt <= item else item)
    async with scene({"steps": [each(retry=retry(3, "100ms"))]}, world) as s:
        await s.submit(input=ITEMS)
        assert await s.ended() == "succeeded"
        assert sorted(rows(s.database))[1:] == [
            (i, n, "failed" if n <= i else "succeeded") for i in range(4) for n in range(1, i + 2)
        ]
        keys = {call.item: call.idempotency_key for call, _ in world.calls}
        assert keys == {item: f"r1/a/{item}" for item in range(4)}
        assert all(len({str(b) for c, b in world.calls if c.item == item}) == 1 for item in range(4))


# -- how many at once, and what survives -----------------------------------------------------------------------------------


@virtual_time
async def test_no_more_run_at_once_than_allowed_and_items_do_not_wait_for_each_other() -> None:
    running: set[int] = set()
    most = 0

    async def act(item: int) -> int:
        nonlocal most
        running.add(item)
        most = max(most, len(running))
        await asyncio.sleep(5.0 if item == 0 else 0.5)
        running.discard(item)
        return item

    spec = {"steps": [each(items=list(range(20)), parallel=3)]}
    async with scene(spec, by_item(lambda item, _: act(item))) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        assert most == 3
        row = s.database.rows["r1"]
        assert row.finished_at is not None
        assert row.finished_at - EPOCH < 5_500_000, "the others went on beside the slow one"


@virtual_time
async def test_a_long_back_off_parks_the_run_and_its_time_survives() -> None:
    world = by_item(lambda item, attempt: failure(retry_after=60.0 + item) if attempt == 1 and item else item)
    async with scene({"steps": [each(retry=retry(1), parallel=2)]}, world) as s:
        await s.submit(input=ITEMS)
        await until(lambda: s.database.rows["r1"].status == "waiting")
        row = s.database.rows["r1"]
        assert row.due_at == EPOCH + 61_000_000
        assert len(world.calls) == 3, "an item that waits for its next attempt keeps its place"
        await asyncio.sleep(60.5)
        s.database.wake("r1")
        await s.offer("r1")
        await until(lambda: len(world.calls) == 5)
        assert [call.item for call, _ in world.calls[3:]] == [1, 2] or [call.item for call, _ in world.calls[3:]] == [
            1,
            3,
        ]
        await until(lambda: row.status == "waiting")
        await asyncio.sleep(70)
        s.database.wake("r1")
        await s.offer("r1")
        assert await s.ended() == "succeeded"
        numbers = {(call.item, call.attempt) for call, _ in world.calls}
        assert len(world.calls) == len(numbers) == 7


@virtual_time
async def test_a_cancel_aborts_items_in_flight() -> None:
    async def hang() -> None:
        await asyncio.sleep(1e6)

    world = by_item(lambda *_: hang())
    async with scene({"steps": [each()]}, world) as s:
        await s.submit(input=ITEMS)
        await until(lambda: len(world.calls) == 4)
        s.database.cancel("r1")
        s.dispatcher.cancel(["r1"])
        assert await s.ended(within=5.0) == "cancelled"
        assert rows(s.database) == []


@virtual_time
async def test_the_runs_time_ends_items_in_flight() -> None:
    async def act(item: int) -> int:
        await asyncio.sleep(0.1 if item < 2 else 1e6)
        return item

    async with scene({"steps": [each()], "timeout": "3s"}, by_item(lambda item, _: act(item))) as s:
        await s.submit(input=ITEMS)
        assert await s.ended(within=5.0) == "timed_out"
        assert sorted(rows(s.database)) == [(0, 1, "succeeded"), (1, 1, "succeeded")]


@virtual_time
async def test_a_drained_worker_records_items_in_flight_and_another_goes_on_with_the_rest() -> None:
    async def act(item: int) -> int:
        await asyncio.sleep(1.0)
        return item

    world = by_item(lambda item, _: act(item))
    async with scene({"steps": [each(parallel=2)]}, world) as s:
        await s.submit(input=ITEMS)
        await until(lambda: len(world.calls) == 2)
        await s.dispatcher.drain(grace=5.0)
        assert sorted(rows(s.database)) == [(0, 1, "succeeded"), (1, 1, "succeeded")]
        assert s.database.rows["r1"].status == "queued"
        other = Life(s.database, s.queue, actions_of(world))
        other.start()
        assert await s.ended() == "succeeded"
        await other.kill()
        assert sorted(call.item for call, _ in world.calls) == [0, 1, 2, 3]


@virtual_time
async def test_handlers_run_for_each_item_and_see_the_lists_of_the_steps() -> None:
    spec = {
        "steps": [value("a", "{{ item }}", forEach=ALL), failing("b")],
        "onFailure": [value("undo", "{{ [item, steps.a.output[index]] }}", forEach={"items": "{{ steps.a.output }}"})],
    }
    async with scene(spec) as s:
        await s.submit(input=ITEMS)
        assert await s.ended() == "failed"
        outputs = [document(r.output) for r in s.database.attempts() if r.step == "undo" and r.item >= 0]
        assert outputs == [[n, n] for n in (10, 20, 30, 40)]


# -- limits --------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_an_output_of_an_item_beyond_the_runs_limit_fails_that_item() -> None:
    world = by_item(lambda *_: "x" * 1_000_000)
    async with scene({"steps": [each(items=list(range(18)), onError="Continue")]}, world) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        failed = [r for r in s.database.attempts() if r.item >= 0 and r.status == "failed"]
        assert len(failed) == 2
        assert document(failed[0].error)["reason"] == "OutputsTooLarge"


@pytest.mark.parametrize(("items", "text", "flushes"), [(9, "x" * 1_000_000, 3), (4_500, "", 3), (1_900, "", 1)])
@virtual_time
async def test_a_flush_holds_only_so_much_of_one_run_and_its_end_comes_with_the_last(
    items: int, text: str, flushes: int
) -> None:
    stated = {"items": list(range(items)), "maxItems": 10_000}
    steps = [value("text", text, needs=[]), value("a", "{{ input + string(index) }}", forEach=stated)]
    async with scene({"steps": steps}) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        entries = [entry for flush in s.store.flushed for entry in flush]
        assert len(entries) == flushes
        assert all(len(entry.attempts) <= MAX_ROWS and entry.size < MAX_BYTES + 1_100_000 for entry in entries)
        assert [entry.end is not None for entry in entries] == [False] * (flushes - 1) + [True]
        assert sorted(item for item, _, _ in rows(s.database)) == list(range(-1, items))


@virtual_time
async def test_an_output_of_an_item_over_a_mebibyte_fails_it() -> None:
    world = by_item(lambda item, _: "x" * (1 << 20))
    async with scene({"steps": [each(items=[1])]}, world) as s:
        await s.submit()
        assert await s.ended() == "failed"
        assert document(own(s.database).error)["message"].startswith("item 0: the output has 1,048,578 bytes")
