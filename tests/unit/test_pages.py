"""Runs on stdout."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from stepwell.adapters.postgres.history_store import RunRecord, StepRecord
from stepwell_cli.pages import door, print_run
from stepwell_cli.progress import plan, progress

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("trigger", "shown"),
    [("5f0c2f0e-6d5e-4a1c-8f0a-0d7f9c1b2a3e", "WorkflowRun"), ("nightly", "nightly"), ("api", "api")],
)
def test_where_a_run_came_in(trigger: str, shown: str) -> None:
    assert door(trigger) == shown


def item(index: int) -> StepRecord:
    bad = index == 25
    error = {"reason": "Broken", "message": "no"} if bad else None
    return StepRecord("a", index, 1, "failed" if bad else "succeeded", NOW, NOW, None, error, None, 30, index)


def test_of_many_items_the_first_and_those_that_failed_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    run = RunRecord("id", "default", "w", "running", "api", NOW, NOW, None, {}, None, None, 1)
    items = [item(index) for index in range(30)]
    print_run(run, items, progress(plan({"steps": [{"name": "a", "forEach": {}, "httpCall": {}}]}), run, items))
    text = capsys.readouterr().out
    assert [index for index in range(30) if f" a[{index}], attempt 1" in text] == [*range(20), 25]
    assert "… and 9 more items of a, which succeeded; --json lists them" in text
    assert "30/30 items" in text
