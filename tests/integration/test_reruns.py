"""`:retry` and `:rerun` from the engine to PostgreSQL: what runs again is what had no result, and nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from engine_specs import CONTINUE, effect, retry, value
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from repeating import NAMESPACE, Repeating, repeating

from stepwell.adapters.postgres.rerun_store import PostgresRerunStore
from stepwell.domain.errors import InputError, NotFoundError, UnavailableError
from stepwell.engine.intake import SuspendedError
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.reruns import NotRepeatableError, Reruns

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.engine.ports import Accepted
    from stepwell.engine.reruns import Repetition

LIST = {"steps": [effect("one"), value("two", {"n": 2}), effect("three"), effect("four")]}


async def failed(s: Repeating, *steps: str, spec: dict[str, Any] = LIST, name: str = "bill") -> str:
    """The id of a run in which these steps failed, as they will not again."""
    await s.apply(spec, name)
    s.failing = set(steps)
    run = await s.started(name)
    assert run.status == "failed"
    s.failing = set()
    return run.id


# -- retry -----------------------------------------------------------------------------------------------------------------


async def test_a_retry_goes_on_where_the_run_failed(database: str) -> None:
    async with repeating(database) as s:
        first = await failed(s, "three")
        accepted = await s.reruns.retry(NAMESPACE, first)
        run = await s.finished(accepted.id)
        assert (run.status, run.output) == ("succeeded", {"did": "four"})
        assert s.effects(run.id) == ["three", "four"]
        before, after = await s.steps(first), await s.steps(run.id)
        assert list(after) == ["one", "two", "three", "four"]
        for name in ("one", "two"):
            assert after[name] == before[name], "the same result, at the same time"
        assert (run.input, run.trigger) == ({"n": 1}, "api")
        (row,) = await s.stage.query("SELECT retry_of::text, rerun_of FROM workflow_runs WHERE id = %s", run.id)
        assert row == {"retry_of": first, "rerun_of": None}
        rows = await s.stage.query("SELECT step, copied FROM step_runs WHERE run_id = %s ORDER BY step", run.id)
        assert [(r["step"], r["copied"]) for r in rows] == [
            ("four", False), ("one", True), ("three", False), ("two", True),
        ]  # fmt: skip


async def test_documents_are_stored_once_in_the_new_run_too(database: str) -> None:
    async with repeating(database) as s:
        first = await failed(s, "three")
        run = await s.finished((await s.reruns.retry(NAMESPACE, first)).id)
        rows = await s.stage.query("SELECT input_data, input_from FROM run_steps WHERE run_id = %s", run.id)
        assert [row["input_data"] for row in rows] == [None] * 4
        assert {str(row["input_from"]) for row in rows} == {"$run", "one", "two", "three"}


async def test_a_retry_of_a_retry(database: str) -> None:
    async with repeating(database) as s:
        first = await failed(s, "three")
        s.failing = {"four"}
        second = await s.finished((await s.reruns.retry(NAMESPACE, first)).id)
        assert second.status == "failed"
        s.failing = set()
        third = await s.finished((await s.reruns.retry(NAMESPACE, second.id)).id)
        assert third.status == "succeeded"
        assert s.effects(third.id) == ["four"]


async def test_a_retry_tells_the_new_runs_time_not_that_of_a_copied_result(database: str) -> None:
    async with repeating(database) as s:
        first = await failed(s, "three")
        run = await s.finished((await s.reruns.retry(NAMESPACE, first)).id)
        assert s.bodies[run.id, "three"]["now"] > s.bodies[first, "three"]["now"]
        assert s.bodies[run.id, "three"]["now"].rstrip("Z") >= run.created_at.isoformat()[:19]


async def test_a_step_that_was_waited_with_and_attempts_of_others_are_not_copied(database: str) -> None:
    async with repeating(database) as s:
        spec = {"steps": [effect("one", retry=retry(1, "1ms")), effect("two")]}
        first = await failed(s, "one", spec=spec)
        assert s.effects(first) == ["one"], "the scripted effect knows no retries"
        run = await s.finished((await s.reruns.retry(NAMESPACE, first)).id)
        assert s.effects(run.id) == ["one", "two"]


async def test_a_cancelled_run_can_be_retried(database: str) -> None:
    async with repeating(database) as s:
        (run_id,) = await s.stage.queued()
        side = await s.stage.side()
        assert await side.runs.cancel(NAMESPACE, [run_id]) == {run_id: "cancelled"}
        assert (await s.finished((await s.reruns.retry(NAMESPACE, run_id)).id)).status == "succeeded"


NAMES = ("a", "b", "c", "d", "e", "f")


@st.composite
def graphs(draw: Any) -> tuple[list[dict[str, Any]], set[str]]:
    """Steps in any order of needs, and which effects fail at first."""
    count = draw(st.integers(1, len(NAMES)))
    steps, effects = [], []
    for index, name in enumerate(NAMES[:count]):
        more: dict[str, Any] = {"needs": draw(st.lists(st.sampled_from(NAMES[:index]), unique=True))} if index else {}
        if draw(st.integers(0, 3)) == 0:
            more |= CONTINUE
        if draw(st.integers(0, 4)) == 0:
            more["if"] = "false"
        if draw(st.integers(0, 3)) == 0:
            steps.append(value(name, {"v": name}, **more))
        else:
            steps.append(effect(name, **more))
            effects.append(name)
    return steps, draw(st.sets(st.sampled_from(effects))) if effects else set()


def test_a_retry_executes_exactly_what_had_no_result(database: str, run: Callable[..., Any]) -> None:
    """Whatever the graph, and whatever failed in it."""
    met: Counter[str] = Counter()

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @example(([effect(n) for n in NAMES], {"d"}))
    @given(graphs())
    def check(drawn: tuple[list[dict[str, Any]], set[str]]) -> None:
        run(one(*drawn))

    async def one(steps: list[dict[str, Any]], failing: set[str]) -> None:
        async with repeating(database) as s:
            await s.apply({"steps": steps}, "drawn")
            s.failing = failing
            first = await s.started("drawn")
            s.failing = set()
            met[first.status] += 1
            if first.status == "succeeded":
                with pytest.raises(NotRepeatableError, match="nothing to retry"):
                    await s.reruns.retry(NAMESPACE, first.id)
                return
            goes_on = {step["name"] for step in steps if "onError" in step}
            before = await s.steps(first.id)
            stands = {n for n, r in before.items() if r.status != "failed" or n in goes_on}
            second = await s.finished((await s.reruns.retry(NAMESPACE, first.id)).id)
            after = await s.steps(second.id)
            skipped = {step["name"] for step in steps if "if" in step}
            effects = {step["name"] for step in steps if "httpCall" in step}
            assert second.status == "succeeded"
            assert sorted(s.effects(second.id)) == sorted(effects - stands - skipped)
            assert {n: after[n] for n in stands} == {n: before[n] for n in stands}
            assert set(after) == {step["name"] for step in steps}

    check()
    assert met["failed"] >= 5, met


# -- rerun -----------------------------------------------------------------------------------------------------------------


async def test_a_rerun_does_it_again_on_the_active_revision(database: str) -> None:
    async with repeating(database) as s:
        first = await failed(s, "three")
        await s.apply({"steps": [effect("new")]}, "bill")
        run = await s.finished((await s.reruns.rerun(NAMESPACE, first)).id)
        assert (run.output, run.input) == ({"did": "new"}, {"n": 1})
        (row,) = await s.stage.query("SELECT retry_of, rerun_of::text FROM workflow_runs WHERE id = %s", run.id)
        assert row == {"retry_of": None, "rerun_of": first}
        other = await s.finished((await s.reruns.rerun(NAMESPACE, first, value={"n": 2})).id)
        assert other.input == {"n": 2}


async def test_a_reruns_input_must_fit_the_active_revision(database: str) -> None:
    async with repeating(database) as s:
        first = await failed(s, "one")
        schema = {"type": "object", "required": ["m"], "properties": {"m": {"type": "integer"}}}
        await s.apply({"inputSchema": schema, "steps": [effect("new")]}, "bill")
        with pytest.raises(InputError, match="m"):
            await s.reruns.rerun(NAMESPACE, first)
        assert (await s.finished((await s.reruns.rerun(NAMESPACE, first, value={"m": 3})).id)).input == {"m": 3}


async def test_a_rerun_from_a_step_keeps_what_does_not_follow_from_it(database: str) -> None:
    spec = {
        "steps": [
            effect("a"), effect("b", needs=["a"]), effect("c", needs=["a"]), effect("d", needs=["b", "c"]),
        ]
    }  # fmt: skip
    async with repeating(database) as s:
        await s.apply(spec, "bill")
        first = await s.started("bill")
        await s.apply({"steps": [effect("new")]}, "bill")
        run = await s.finished((await s.reruns.rerun(NAMESPACE, first.id, from_step="b")).id)
        assert run.status == "succeeded"
        assert s.effects(run.id) == ["b", "d"], "on the revision of the first run"
        assert list(await s.steps(run.id)) == ["a", "c", "b", "d"]


async def test_a_rerun_from_a_step_that_was_never_reached_or_does_not_exist(database: str) -> None:
    async with repeating(database) as s:
        first = await failed(s, "one")
        with pytest.raises(NotRepeatableError, match="step four needs the result of one"):
            await s.reruns.rerun(NAMESPACE, first, from_step="four")
        with pytest.raises(InputError, match="no step 'six'; its steps are one, two"):
            await s.reruns.rerun(NAMESPACE, first, from_step="six")
        with pytest.raises(InputError, match="input or fromStep"):
            await s.reruns.rerun(NAMESPACE, first, from_step="one", value={})


# -- what stands in the way ------------------------------------------------------------------------------------------------


async def test_what_cannot_be_repeated(database: str) -> None:
    async with repeating(database) as s:
        first = await failed(s, "three")
        live = (await s.stage.queued())[0]
        for repeat in (s.reruns.retry, s.reruns.rerun):
            with pytest.raises(NotRepeatableError, match="is queued; only a run that ended"):
                await repeat(NAMESPACE, live)
            for namespace, run_id in (("other", first), (NAMESPACE, live[:-4] + "0000"), (NAMESPACE, "x")):
                with pytest.raises(NotFoundError):
                    await repeat(namespace, run_id)
        await s.apply(LIST, "bill", suspended=True)
        for repeat in (s.reruns.retry, s.reruns.rerun):
            with pytest.raises(SuspendedError):
                await repeat(NAMESPACE, first)
        await s.stage.query("UPDATE workflows SET deleted_at = now(), suspended = false WHERE name = 'bill'")
        for repeat in (s.reruns.retry, s.reruns.rerun):
            with pytest.raises(NotRepeatableError, match="was deleted"):
                await repeat(NAMESPACE, first)


async def test_what_changes_between_the_look_and_the_write_is_noticed(database: str) -> None:
    """Each guard of the statement itself: what was read a moment ago no longer holds."""
    async with repeating(database) as s:
        first = await failed(s, "three")
        store = PostgresRerunStore((await s.stage.side()).session)
        source = await store.source(NAMESPACE, first)
        new = s.reruns._repetition(source, retry=False, document=b"{}")
        await s.apply({"steps": [effect("new")]}, "bill")
        assert await store.begin(new) is None
        new = s.reruns._repetition(source, retry=True, steps=["one"])
        for change in (
            "UPDATE workflows SET suspended = true WHERE name = 'bill'",
            "UPDATE workflows SET suspended = false, deleted_at = now() WHERE name = 'bill'",
        ):
            await s.stage.query(change)  # type: ignore[arg-type]
            assert await store.begin(new) is None
        assert await s.stage.query("SELECT id FROM runs WHERE id = %s", new.id) == []
        assert await s.stage.query("SELECT step FROM run_steps WHERE run_id = %s", new.id) == []


# -- keys and lost answers -------------------------------------------------------------------------------------------------


async def test_the_same_key_at_once_makes_one_run(database: str) -> None:
    async with repeating(database) as s:
        first = await failed(s, "three")
        answers = await asyncio.gather(*(s.reruns.retry(NAMESPACE, first, key="again") for _ in range(20)))
        assert len({a.id for a in answers}) == 1
        assert sum(not a.repeated for a in answers) == 1
        assert not any(a.input_differs for a in answers)
        await s.finished(answers[0].id)
        assert s.effects(answers[0].id) == ["three", "four"]


async def test_a_keys_scope_is_the_act_on_the_run(database: str) -> None:
    async with repeating(database) as s:
        first = await failed(s, "three")
        retried = await s.reruns.retry(NAMESPACE, first, key="k")
        rerun = await s.reruns.rerun(NAMESPACE, first, key="k")
        assert retried.id != rerun.id
        again = await s.reruns.rerun(NAMESPACE, first, key="k", value={"n": 9})
        assert (again.id, again.repeated, again.input_differs) == (rerun.id, True, True)
        same = await s.reruns.rerun(NAMESPACE, first, key="k", value={"n": 1})
        assert (same.id, same.input_differs) == (rerun.id, False)
        await s.finished(retried.id)
        await s.finished(rerun.id)


@pytest.mark.parametrize("key", ["again", None])
async def test_an_answer_that_is_lost_leaves_one_run(database: str, key: str | None) -> None:
    async with repeating(database) as s:
        first = await failed(s, "three")
        store = LosesAnAnswer((await s.stage.side()).session)
        reruns = Reruns(store, s.reruns._revisions, Offers(s.queue), s.stage.clock)
        accepted = await reruns.retry(NAMESPACE, first, key=key)
        assert store.lost
        assert not accepted.repeated
        await s.finished(accepted.id)
        rows = await s.stage.query("SELECT id::text FROM runs WHERE retry_of = %s", first)
        assert [row["id"] for row in rows] == [accepted.id]


class LosesAnAnswer(PostgresRerunStore):
    """The run is committed, but nobody hears of it; the workflow is suspended before it is sent again."""

    lost = False

    async def begin(self, new: Repetition, *, again: bool = False) -> Accepted | None:
        accepted = await super().begin(new, again=again)
        if not self.lost:
            self.lost = True
            await self._session.execute("UPDATE workflows SET suspended = true")
            raise UnavailableError("the answer was lost")
        assert again
        return accepted
