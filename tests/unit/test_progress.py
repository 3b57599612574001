"""What follows from a run's records for each of its steps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepwell.adapters.postgres.history_store import RunState, StepRecord
from stepwell_cli.progress import plan, progress
from stepwell_cli.steps_table import elapsed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = {
    "steps": [
        {"name": "a", "transform": {"value": 1}},
        {"name": "b", "needs": ["a"], "httpCall": {"url": "x"}, "retry": {"limit": 1}},
        {"name": "c", "needs": ["a"], "httpCall": {"url": "x"}, "onError": "Continue"},
        {"name": "d", "needs": ["b", "c"], "if": "true", "fail": {"message": "no"}},
    ]
}


def run(status: str) -> RunState:
    return RunState("id", "default", "w", status, "api", NOW, NOW, None)


def record(step: str, status: str = "succeeded", attempt: int = 1, *, again: bool = False) -> StepRecord:
    error = {"message": "broken"} if status == "failed" else None
    later = NOW + timedelta(seconds=5) if again else None
    return StepRecord(step, -1, attempt, status, NOW, NOW, later, error, None)


def states(status: str, *records: StepRecord) -> dict[str, str]:
    return {step.name: step.state for step in progress(plan(SPEC), run(status), records).steps}


def test_the_plan() -> None:
    assert [(step.name, step.action, step.needs) for step in plan(SPEC)] == [
        ("a", "transform", ()),
        ("b", "httpCall", ("a",)),
        ("c", "httpCall", ("a",)),
        ("d", "fail", ("b", "c")),
    ]


@pytest.mark.parametrize(
    ("status", "records", "expected"),
    [
        ("queued", [], ["pending", "pending", "pending", "pending"]),
        ("running", [], ["running", "pending", "pending", "pending"]),
        ("running", [record("a")], ["succeeded", "running", "running", "pending"]),
        (
            "running",
            [record("a"), record("b", "failed", again=True), record("c", "failed")],
            ["succeeded", "retrying", "failed", "pending"],
        ),
        (
            "running",
            [record("a"), record("b", "failed", again=True), record("c", "failed"), record("b", attempt=2)],
            ["succeeded", "succeeded", "failed", "running"],
        ),
        ("running", [record("a", "skipped")], ["skipped", "running", "running", "pending"]),
        ("running", [record("a"), record("b", "failed")], ["succeeded", "failed", "running", "pending"]),
        ("failed", [record("a"), record("b", "failed")], ["succeeded", "failed", "not run", "not run"]),
        ("cancelled", [record("a"), record("b", "failed", again=True)], ["succeeded", "failed", "stopped", "not run"]),
    ],
)
def test_states(status: str, records: list[StepRecord], expected: list[str]) -> None:
    assert list(states(status, *records).values()) == expected


HANDLED = {
    "steps": [{"name": "a", "httpCall": {"url": "x"}}, {"name": "b", "transform": {"value": 1}}],
    "onFailure": [{"name": "f", "httpCall": {"url": "x"}}],
    "finally": [{"name": "y", "httpCall": {"url": "x"}}, {"name": "z", "transform": {"value": 1}}],
}


@pytest.mark.parametrize(
    ("status", "records", "expected"),
    [
        ("running", [], ["running", "pending", "pending", "pending", "pending"]),
        ("running", [record("a", "failed", again=True)], ["retrying", "pending", "pending", "pending", "pending"]),
        ("running", [record("a", "failed")], ["failed", "not run", "running", "pending", "pending"]),
        ("running", [record("a"), record("b")], ["succeeded", "succeeded", "not run", "running", "pending"]),
        ("running", [record("f")], ["not run", "not run", "succeeded", "running", "pending"]),
        ("waiting", [record("f", "failed", again=True)], ["not run", "not run", "retrying", "pending", "pending"]),
        ("running", [record("f", "failed")], ["not run", "not run", "failed", "running", "pending"]),
        ("cancelled", [record("f"), record("y")], ["not run", "not run", "succeeded", "succeeded", "stopped"]),
        ("succeeded", [record(n) for n in "abyz"], ["succeeded", "succeeded", "not run", "succeeded", "succeeded"]),
    ],
)
def test_states_of_handlers(status: str, records: list[StepRecord], expected: list[str]) -> None:
    assert [step.state for step in progress(plan(HANDLED), run(status), records).steps] == expected


@pytest.mark.parametrize(
    ("status", "state"), [("running", "waiting"), ("waiting", "waiting"), ("cancelled", "stopped")]
)
@pytest.mark.parametrize("action", [{"wait": {"duration": "1h"}}, {"approval": {}}])
def test_what_waits_says_so(action: dict[str, Any], status: str, state: str) -> None:
    spec = {"steps": [{"name": "a", **action}, {"name": "b", "transform": {"value": 1}}]}
    steps = progress(plan(spec), run(status), []).steps
    assert [step.state for step in steps] == [state, "not run" if state == "stopped" else "pending"]


def item(index: int, status: str = "succeeded", *, again: bool = False) -> StepRecord:
    return replace(record("b", status, again=again), item_index=index, items=3)


EACH = {"steps": [{"name": "b", "forEach": {"items": []}, "httpCall": {"url": "x"}}, {"name": "c", "fail": {}}]}


@pytest.mark.parametrize(
    ("status", "records", "expected"),
    [
        ("running", [], ("running", None)),
        ("running", [item(0)], ("running", (1, 3))),
        ("running", [item(0), item(1, "failed", again=True)], ("running", (1, 3))),
        ("waiting", [item(0), item(1, "failed", again=True)], ("retrying", (1, 3))),
        ("waiting", [item(1, "failed", again=True), item(1), item(2, "failed", again=True)], ("retrying", (1, 3))),
        ("running", [item(0), item(1), item(2), replace(record("b"), items=3)], ("succeeded", (3, 3))),
        ("failed", [item(0), item(2, "failed"), replace(record("b", "failed"), items=3)], ("failed", (2, 3))),
        ("cancelled", [item(0)], ("stopped", (1, 3))),
        ("failed", [item(0)], ("stopped", (1, 3))),
    ],
)
def test_states_of_a_step_with_items(status: str, records: list[StepRecord], expected: tuple[str, Any]) -> None:
    step = progress(plan(EACH), run(status), records).steps[0]
    assert (step.state, step.items) == expected
    if step.state == "retrying":
        assert step.message == f"item {2 if item(1) in records else 1}: broken"


def test_a_retry_shows_its_attempt_and_reason() -> None:
    shown = progress(plan(SPEC), run("running"), [record("a"), record("b", "failed", again=True)]).steps[1]
    assert (shown.attempt, shown.message, shown.retry_at) == (1, "broken", NOW + timedelta(seconds=5))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 µs"),
        (0.000104, "104 µs"),
        (0.0042, "4.2 ms"),
        (0.042, "42 ms"),
        (0.9996, "1.0 s"),
        (59.9, "59.9 s"),
        (61, "1 min 01 s"),
        (3 * 3600 + 120, "3 h 02 min"),
    ],
)
def test_elapsed(seconds: float, text: str) -> None:
    assert elapsed(NOW, NOW + timedelta(seconds=seconds)) == text
