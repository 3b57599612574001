"""Lines about runs: what they name, that they are bounded, and that no value of a user's is in them."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from engine_life import scene, until
from engine_specs import effect, failure, retry, scripted, value
from virtual_time import virtual_time

from stepwell import run_log
from stepwell.run_log import RunLog

if TYPE_CHECKING:
    from engine_life import World

CANARY = "c4n4ry"
PATTERN = f"{{{{ run.input.word + '{CANARY}' }}}}"


async def executed(spec: dict[str, Any], runs: int = 1, world: World | None = None) -> None:
    async with scene(spec, world, observer=RunLog()) as s:
        for n in range(runs):
            await s.submit(f"r{n}", input=json.dumps({"word": CANARY}))
        await until(lambda: all(row.final for row in s.database.rows.values()))
        await until(lambda: not s.dispatcher.active)


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of each line about runs, with its message."""
    standard = {*vars(logging.makeLogRecord({})), "message", "asctime"}
    return [
        {"message": r.getMessage(), **{k: v for k, v in vars(r).items() if k not in standard}}
        for r in caplog.records
        if r.name == "stepwell.run_log"
    ]


FAILING = {"steps": [{"name": "a", "fail": {"message": PATTERN}}]}


@virtual_time
async def test_a_failed_run_is_one_line_that_says_where_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = scripted(failure(), failure())
    await executed({"steps": [value("a", 1), effect("b", retry=retry(1))]}, world=world)
    (line,) = lines(caplog)
    assert line.pop("seconds") >= 1.0
    assert line == {
        "message": "a run has failed", "run": "r0", "namespace": "default", "workflow": "test", "status": "failed",
        "reason": "Broken", "step": "b", "attempt": 2,
    }  # fmt: skip


@virtual_time
async def test_a_line_names_the_item(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await executed({"steps": [{"name": "a", "forEach": {"items": [1]}, "fail": {"message": PATTERN}}]})
    item, step, end = lines(caplog)
    assert (item["item"], item["step"], item["status"]) == (0, "a", "failed")
    assert "item" not in step
    assert (end["step"], end["index"], end["attempt"], end["reason"]) == ("a", 0, 1, "Failed")
    assert CANARY not in caplog.text


@virtual_time
async def test_a_run_that_timed_out_is_told_and_a_success_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await executed({"steps": [value("a", 1)]})
    assert lines(caplog) == []
    world = scripted(failure(retry_after=30.0), 1)
    await executed({"steps": [effect("a", retry=retry(1))], "timeout": "1ms"}, world=world)
    (line,) = lines(caplog)
    assert (line["message"], line["reason"]) == ("a run has timed out", "RunTimedOut")


@virtual_time
async def test_a_flood_of_failures_is_bounded_and_what_was_left_out_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "BURST", 3)
    caplog.set_level(logging.INFO)
    moment = 0.0
    observer = RunLog(monotonic=lambda: moment)
    async with scene(FAILING, observer=observer) as s:
        for n in range(20):
            await s.submit(f"r{n}", input='{"word": "x"}')
        await until(lambda: all(row.final for row in s.database.rows.values()))
        await until(lambda: not s.dispatcher.active)
        assert len(lines(caplog)) == 3
        moment = 10.0
        await s.submit("later", input='{"word": "x"}')
        await until(lambda: len(lines(caplog)) == 4)
    assert lines(caplog)[-1]["message"] == "a run has failed (so have 17 before it that are not listed)"


@virtual_time
async def test_every_attempt_and_end_is_a_line_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await executed({"steps": [effect("a", retry=retry(1))]}, world=scripted(failure(), 1))
    shown = [(line["message"], line.get("attempt"), line["status"], line.get("reason")) for line in lines(caplog)]
    assert shown == [
        ("an attempt was recorded", 1, "failed", "Broken"),
        ("an attempt was recorded", 2, "succeeded", None),
        ("a run has ended", None, "succeeded", None),
    ]


@virtual_time
async def test_no_input_output_or_message_is_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await executed({"steps": [value("a", {"word": PATTERN}), {"name": "b", "fail": {"message": PATTERN}}]})
    assert len(lines(caplog)) == 3
    assert not [record for record in caplog.records if CANARY in f"{record.getMessage()} {vars(record)!r}"]
