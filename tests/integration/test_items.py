"""Steps with items in PostgreSQL: what is stored of them, and what everybody who reads runs makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from engine_specs import value
from repeating import NAMESPACE, Repeating, repeating
from waiting import eventually

from stepwell.adapters.postgres.run_objects import RunObjectStore
from stepwell.adapters.postgres.run_reader import RunReader
from stepwell.domain.retry import StepFailure
from stepwell.engine.intake import Start
from stepwell_cli.failure import lines
from stepwell_cli.progress import plan, progress
from stepwell_operator.runs.status import situation_of, step_statuses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell.adapters.postgres.history_store import RunRecord, StepRecord

NAMES = ["ada", "bob", "cyd", "dan"]


def each(name: str = "tell", **fields: Any) -> dict[str, Any]:
    call = {"url": "https://a.example", "body": {"to": "{{ item }}", "place": "{{ index }}"}}
    return {"name": name, "forEach": {"items": "{{ names }}", "maxParallel": 2}, "httpCall": call, **fields}


SPEC = {"steps": [value("names", {"names": NAMES}), each(), value("count", {"all": "{{ size(input) }}"})]}


async def ran(s: Repeating, *failing: str, spec: dict[str, Any] = SPEC) -> RunRecord:
    await s.apply(spec, "mail")
    s.failing = set(failing)
    return await s.started("mail")


async def test_each_document_is_stored_once_and_read_everywhere(database: str) -> None:
    async with repeating(database) as s:
        run = await ran(s, spec={"steps": SPEC["steps"][:2]})
        listed = [{"did": f"tell/{n}"} for n in range(4)]
        assert (run.status, run.output) == ("succeeded", listed)
        stored = await s.stage.query(
            "SELECT item_index, items, output_data, input_data, input_from FROM run_steps"
            " WHERE run_id = %s AND step = 'tell' ORDER BY item_index", run.id,
        )  # fmt: skip
        assert [row["items"] for row in stored] == [4] * 5
        assert [row["output_data"] for row in stored] == [None, *listed]
        assert [(row["input_data"], row["input_from"]) for row in stored] == [
            (None, "names"),
            *((n, None) for n in NAMES),
        ]
        seen = await s.stage.query(
            "SELECT item_index, input_data, output_data FROM step_runs WHERE run_id = %s AND step = 'tell'"
            " ORDER BY item_index", run.id,
        )  # fmt: skip
        assert [tuple(row.values()) for row in seen] == [
            (-1, {"names": NAMES}, listed), *((n, NAMES[n], listed[n]) for n in range(4)),
        ]  # fmt: skip
        assert s.bodies[run.id, "tell/2"] == {"to": "cyd", "place": 2}


async def test_the_next_step_takes_the_list_by_reference(database: str) -> None:
    async with repeating(database) as s:
        run = await ran(s)
        assert run.output == {"all": 4}
        steps = await s.steps(run.id)
        assert steps["count"].input == steps["tell"].output == [{"did": f"tell/{n}"} for n in range(4)]
        rows = await s.stage.query("SELECT input_data FROM run_steps WHERE run_id = %s AND step = 'count'", run.id)
        assert rows == [{"input_data": None}]


async def test_an_empty_list_and_a_failed_item_are_read_as_they_were(database: str) -> None:
    async with repeating(database) as s:
        empty = await ran(s, spec={"steps": [value("names", {"names": []}), each()]})
        assert (empty.status, empty.output) == ("succeeded", [])
        some = await ran(s, "tell/1", spec={"steps": [SPEC["steps"][0], each(onError="Continue")]})
        assert some.output == [{"did": "tell/0"}, None, {"did": "tell/2"}, {"did": "tell/3"}]
        error = (await s.steps(some.id))["tell"].error
        assert error is not None
        assert error["message"] == "1 of 4 items failed, first item 1: it broke"


# -- repeats -------------------------------------------------------------------------------------------------------------


async def test_a_retry_takes_over_the_items_that_succeeded(database: str) -> None:
    async with repeating(database) as s:
        first = await ran(s, "tell/1")
        assert first.status == "failed"
        done = [place for place in s.effects(first.id) if place != "tell/1"]
        s.failing = set()
        run = await s.finished((await s.reruns.retry(NAMESPACE, first.id)).id)
        assert (run.status, run.output) == ("succeeded", {"all": 4})
        assert sorted(s.effects(run.id)) == sorted({f"tell/{n}" for n in range(4)} - set(done))
        rows = await s.stage.query(
            "SELECT item_index FROM step_runs WHERE run_id = %s AND copied AND item_index >= 0", run.id
        )
        assert sorted(row["item_index"] for row in rows) == sorted(int(place[-1]) for place in done)
        assert (await s.steps(run.id))["tell"].output == [{"did": f"tell/{n}"} for n in range(4)]


async def test_a_rerun_behind_the_step_takes_over_the_whole_list(database: str) -> None:
    async with repeating(database) as s:
        first = await ran(s)
        run = await s.finished((await s.reruns.rerun(NAMESPACE, first.id, from_step="count")).id)
        assert (run.status, run.output, s.effects(run.id)) == ("succeeded", {"all": 4}, [])
        again = await s.finished((await s.reruns.rerun(NAMESPACE, first.id, from_step="tell")).id)
        assert (again.status, len(s.effects(again.id))) == ("succeeded", 4)


# -- readers -------------------------------------------------------------------------------------------------------------


async def test_the_api_pages_through_items(database: str) -> None:
    async with repeating(database) as s:
        run = await ran(s)
        reader = RunReader((await s.stage.side()).session)
        summary = await reader.run(NAMESPACE, run.id)
        pages = [await reader.attempts(summary, seen, 3, documents=True) for seen in (0, 3, 6)]
        found = [attempt for page in pages for attempt in page]
        assert [len(page) for page in pages] == [3, 3, 1]
        assert (await reader.progress([run.id]))[run.id].recorded == 7
        own = next(a for a in found if a.step == "tell" and a.item_index < 0)
        assert (own.items, own.output) == (4, [{"did": f"tell/{n}"} for n in range(4)])
        assert {a.item_index: a.output for a in found if a.item_index >= 0} == {
            n: {"did": f"tell/{n}"} for n in range(4)
        }
        assert found.index(own) > max(found.index(a) for a in found if a.item_index >= 0), "its items come first"


async def test_a_status_shows_one_entry_for_the_step(database: str) -> None:
    async with repeating(database) as s:
        run = await ran(s, "tell/1")
        store = RunObjectStore((await s.stage.side()).session)
        details, attempts = (await store.details([run.id]))[run.id]
        entries = step_statuses(attempts, final=True)
        assert [(e["name"], e["status"], e["attempts"]) for e in entries] == [
            ("names", "Succeeded", 1),
            ("tell", "Failed", 1),
        ]
        assert entries[1]["message"] == "item 1: it broke"
        assert situation_of(details, attempts).message == "step tell: item 1: it broke"


async def test_a_status_names_the_item_that_a_run_waits_for(database: str) -> None:
    async with repeating(database) as s:
        again = {
            "retry": {"limit": 3, "backoff": {"initial": "1h", "jitter": "None", "max": "1h"}, "retryOn": ["Error"]}
        }
        await s.apply({"steps": [SPEC["steps"][0], each(**again)]}, "mail")
        s.failing, s.failure = {"tell/1"}, StepFailure("Broken", "it broke")
        accepted = await s.intake.start(Start(NAMESPACE, "mail", {"n": 1}))

        async def waiting() -> bool:
            return (await s.history.state(accepted.id)).status == "waiting"

        await eventually(waiting)
        store = RunObjectStore((await s.stage.side()).session)
        details, attempts = (await store.details([accepted.id]))[accepted.id]
        assert situation_of(details, attempts).message.startswith("item 1 of step tell is tried again at ")
        entry = next(e for e in step_statuses(attempts, final=False) if e["name"] == "tell")
        assert (entry["status"], entry["attempts"]) == ("Retrying", 1)
        shown = await _progress(s, accepted.id)
        step = next(step for step in shown.steps if step.name == "tell")
        assert (step.state, step.items) == ("retrying", (3, 4))
        assert step.message == "item 1: it broke"


async def test_the_command_line_shows_how_many_items_are_over_and_which_one_failed(database: str) -> None:
    async with repeating(database) as s:
        run = await ran(s, "tell/1")
        step = next(step for step in (await _progress(s, run.id)).steps if step.name == "tell")
        assert step.state == "failed"
        assert step.items is not None
        assert step.items[1] == 4
        text = "\n".join(lines(run, await s.history.steps(run.id)))
        assert f"run {run.id} failed at step tell, item 1" in text
        assert 'the item: "bob"' in text


async def _progress(s: Repeating, run_id: str) -> Any:
    run = await s.history.run(run_id)
    records: Iterable[StepRecord] = await s.history.steps(run_id, documents=False)
    return progress(plan(await s.history.spec(run.revision_id)), await s.history.state(run_id), records)


@pytest.mark.parametrize("count", [0, 3])
async def test_what_is_beyond_the_list_is_not_shown(database: str, count: int) -> None:
    """A retry may find a shorter list where `now()` made it: results that were taken over beyond it are nobody's."""
    async with repeating(database) as s:
        run = await ran(s, spec={"steps": SPEC["steps"][:2]})
        (row,) = await s.stage.query("SELECT item_outputs(%s, 'tell', %s) AS listed", run.id, count)
        assert row["listed"] == [{"did": f"tell/{n}"} for n in range(count)]
