"""What the status of a WorkflowRun says, from records alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from stepwell.adapters.postgres.run_objects import RunDetails, StepAttempt
from stepwell.domain.states import RunStatus
from stepwell_operator.runs.objects import END, RANKS, RunObject, Shown, parse
from stepwell_operator.runs.status import (
    REASONS,
    Situation,
    cut_bytes,
    shown_after,
    situation_of,
    status_of,
    step_statuses,
)

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
RUN = "019a0000-0000-7000-8000-000000000001"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def body(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "uid": "u-1",
            "namespace": "growth",
            "name": "x",
            "resourceVersion": "12",
            "generation": 3,
            "creationTimestamp": "2026-11-22T12:00:00Z",
        },
        "spec": {"workflowRef": {"name": "welcome"}, "cancel": False, **spec},
        "status": status or {},
    }


def obj(status: dict[str, Any] | None = None, **spec: Any) -> RunObject:
    return parse(body(status, **spec))


def run(status: str, **values: Any) -> RunDetails:
    final = RunStatus(status).final
    times = {"started_at": at(1) if status != "queued" else None, "finished_at": at(5) if final else None}
    return RunDetails(RUN, status, **{**times, **values})


def attempt(step: str, number: int = 1, status: str = "succeeded", **values: Any) -> StepAttempt:
    return StepAttempt(step, number, status, **{"started_at": at(number), "finished_at": at(number + 0.5), **values})


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def valid(status: dict[str, Any]) -> bool:
    crd = yaml.safe_load((Path(__file__).parents[2] / "crds" / "workflowruns.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    return bool(jsonschema_rs.validator_for({"additionalProperties": False, **schema}).is_valid(status))


@pytest.mark.parametrize("word", list(RunStatus))
def test_each_status_of_a_run_has_its_reason(word: RunStatus) -> None:
    status = status_of(obj(), situation_of(run(word), []), at(9))
    final = word.final
    succeeded = "Unknown" if not final else "True" if word == "succeeded" else "False"
    assert conditions(status) == {
        "Succeeded": (succeeded, REASONS[word]),
        "Finished": ("True" if final else "False", REASONS[word]),
    }
    assert status["phase"] == REASONS[word]
    assert status["runId"] == RUN
    assert status.get("completionTime") == ("2026-11-22T12:00:05Z" if final else None)
    assert valid(status)


@pytest.mark.parametrize(
    ("reason", "succeeded"), [("InvalidInput", "False"), ("WorkflowNotFound", "False"), ("Expired", "Unknown")]
)
def test_an_end_without_a_run(reason: str, succeeded: str) -> None:
    status = status_of(obj(), Situation(reason, "why"), at(9))
    assert conditions(status) == {"Succeeded": (succeeded, reason), "Finished": ("True", reason)}
    assert status["completionTime"] == "2026-11-22T12:00:09Z"
    assert "runId" not in status
    assert valid(status)


def test_what_is_kept_and_what_is_new_of_transition_times() -> None:
    first = status_of(obj(), situation_of(run("queued"), []), at(1))
    assert {c["lastTransitionTime"] for c in first["conditions"]} == {"2026-11-22T12:00:01Z"}
    second = status_of(obj(first), situation_of(run("running"), []), at(2))
    assert {c["lastTransitionTime"] for c in second["conditions"]} == {"2026-11-22T12:00:01Z"}
    last = status_of(obj(second), situation_of(run("failed"), []), at(6))
    assert {c["lastTransitionTime"] for c in last["conditions"]} == {"2026-11-22T12:00:06Z"}
    assert {c["observedGeneration"] for c in last["conditions"]} == {3}


@pytest.mark.parametrize(
    "situation", [Situation("Queued", "x"), situation_of(run("waiting"), []), Situation("InvalidInput")]
)
def test_what_is_remembered_of_a_write_is_what_is_read_back(situation: Situation) -> None:
    written = status_of(obj(), situation, at(2))
    assert obj(written).shown == shown_after(Shown(), situation, at(2))
    assert obj(written).shown.rank == RANKS.get(situation.reason, END)


def test_an_output_stands_there_up_to_its_bound() -> None:
    small = status_of(obj(), situation_of(run("succeeded", output={"a": None}), []), at(6))
    assert small["output"] == {"a": None}
    large = status_of(obj(), situation_of(run("succeeded", output_too_large=True), []), at(6), "https://x.example/")
    assert "output" not in large
    assert (large["outputTruncated"], large["outputUrl"]) == (
        True,
        f"https://x.example/api/v1/namespaces/growth/runs/{obj().run_id}",
    )
    assert "output" not in status_of(obj(), situation_of(run("failed", output={"a": 1}), []), at(6))


def test_a_step_has_one_entry_with_its_last_attempt() -> None:
    found = [
        attempt("call", 1, "failed", retry_at=at(3), message="503"),
        attempt("call", 2, "failed", retry_at=at(5), message="504"),
        attempt("first", 1, started_at=at(0)),
    ]
    first, call = step_statuses(found, final=False)
    assert first["name"] == "first"
    assert call == {
        "name": "call",
        "status": "Retrying",
        "attempts": 2,
        "startTime": "2026-11-22T12:00:01Z",
        "message": "504",
    }
    (_, ended) = step_statuses(found, final=True)
    assert (ended["status"], ended["completionTime"]) == ("Failed", "2026-11-22T12:00:02Z")


def test_a_waiting_run_says_what_for() -> None:
    retries = [
        attempt("call", 1, "failed", retry_at=at(9), message="502"),
        attempt("call", 2, "failed", retry_at=at(30), message="503"),
    ]
    for details, message in [
        ({"due_at": at(30)}, "step call is tried again at 2026-11-22T12:00:30Z: 503"),
        ({"due_at": at(40)}, "until 2026-11-22T12:00:40Z"),
        ({"approval": "sign", "due_at": at(40)}, "step sign waits for an approval until 2026-11-22T12:00:40Z"),
        ({"approval": "sign"}, "step sign waits for an approval"),
        ({}, ""),
    ]:
        assert situation_of(run("waiting", **details), retries).message == message


def test_a_failure_names_its_step() -> None:
    error = {"reason": "StepFailed", "message": "no", "step": "check"}
    assert situation_of(run("failed", error=error), []).message == "step check: no"
    assert situation_of(run("failed", error={"message": "no"}), []).message == "no"


def test_texts_and_lists_stay_within_their_bounds() -> None:
    many = [attempt(f"s{number}", 1, "failed", message="ä" * 300, started_at=at(number)) for number in range(400)]
    status = status_of(obj(), situation_of(run("failed", error={"message": "y" * 9_999}), many), at(999))
    assert valid(status)
    assert len(status["steps"]) == 250
    assert status["steps"][0]["name"] == "s0"
    assert len(status["steps"][0]["message"].encode()) <= 256
    assert status["steps"][0]["message"].endswith("ä…")
    assert len(status["message"]) == 1_024
    assert cut_bytes("x" * 256, 256) == "x" * 256


def test_an_object_is_read_as_the_api_server_gives_it() -> None:
    found = obj(ttlAfterFinished="1h", cancel=True, input={"n": 1}, priority="High")
    assert (found.ttl, found.unwanted, found.input, found.priority) == (3600.0, True, {"n": 1}, "High")
    assert int(found.run_id.replace("-", "")[:12], 16) == NOON.timestamp() * 1000
    assert found.run_id == obj().run_id
    other = body()
    other["metadata"]["uid"] = "u-2"
    assert parse(other).run_id != found.run_id
    deleting = body()
    deleting["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    assert parse(deleting).unwanted
