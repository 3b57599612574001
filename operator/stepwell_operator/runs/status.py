"""What the status of a WorkflowRun says: a pure function of the object, its run and the run's steps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stepwell_operator.runs.objects import END, RANKS, Shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell.adapters.postgres.run_objects import RunDetails, StepAttempt
    from stepwell_operator.runs.objects import RunObject

MAX_STEPS = 250
MAX_MESSAGE = 1_024  # characters of the run's message
MAX_STEP_MESSAGE = 256  # bytes

REASONS = {
    "queued": "Queued",
    "running": "Running",
    "waiting": "Waiting",
    "succeeded": "Succeeded",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "timed_out": "TimedOut",
}
"""Reasons by the run's status. InvalidInput, WorkflowNotFound and Expired have no run to be read from."""


@dataclass(frozen=True, slots=True)
class Situation:
    """How a WorkflowRun stands. ``run`` is None where there is none (yet, ever, or any more).

    ``reason`` is the reason of the condition Succeeded; ``message`` says more, if there is more to say.
    """

    reason: str
    message: str = ""
    run: RunDetails | None = None
    steps: Sequence[StepAttempt] = ()

    @property
    def finished(self) -> bool:
        """Whether this is an end."""
        return self.reason not in RANKS


def situation_of(run: RunDetails, steps: Sequence[StepAttempt]) -> Situation:
    """The situation of a run that exists."""
    return Situation(REASONS[run.status], _run_message(run, steps), run, steps)


def status_of(obj: RunObject, situation: Situation, now: datetime, base_url: str = "") -> dict[str, Any]:
    """The whole status. Its parts are within the CRD's bounds, its times whole seconds in UTC.

    ``now`` stands for ``completionTime`` where there was no run; ``base_url`` is where the gateway is reached.
    """
    run = situation.run
    status: dict[str, Any] = {
        "conditions": _conditions(obj, situation, now),
        "phase": situation.reason,
        "startTime": _text(run.started_at) if run else None,
        "completionTime": _text(_ended(situation, now)),
        "message": shortened(situation.message, MAX_MESSAGE) or None,
    }
    if run is not None:
        status["runId"] = run.id
        status["steps"] = step_statuses(situation.steps, final=situation.finished) or None
        status |= _output(obj, run, base_url) if situation.reason == "Succeeded" else {}
    return {key: value for key, value in status.items() if value is not None}


def shown_after(before: Shown, situation: Situation, now: datetime) -> Shown:
    """What the object's status says once that of `status_of` is written."""
    since = now if situation.finished or before.since is None else before.since
    rank = END if situation.finished else RANKS[situation.reason]
    return Shown(rank, since, _ended(situation, now), before.started or situation.run is not None)


def _ended(situation: Situation, now: datetime) -> datetime | None:
    if not situation.finished:
        return None
    return situation.run.finished_at if situation.run else now


def _conditions(obj: RunObject, situation: Situation, now: datetime) -> list[dict[str, Any]]:
    succeeded = "Unknown"
    if situation.finished and situation.reason != "Expired":
        succeeded = "True" if situation.reason == "Succeeded" else "False"
    changed = succeeded != "Unknown" or obj.shown.since is None
    common = {"observedGeneration": obj.generation, "reason": situation.reason}
    message = shortened(situation.message, MAX_MESSAGE)
    since = now if changed else obj.shown.since
    return [
        {"type": "Succeeded", "status": succeeded, "lastTransitionTime": _text(since), "message": message, **common},
        {
            "type": "Finished",
            "status": "True" if situation.finished else "False",
            "lastTransitionTime": _text(now if situation.finished else since),
            "message": "",
            **common,
        },
    ]


def _output(obj: RunObject, run: RunDetails, base_url: str) -> dict[str, Any]:
    """The output where it is small. A null cannot stand in a status, so it is left out."""
    if not run.output_too_large:
        return {"output": run.output}
    return _elsewhere(obj, base_url)


def _elsewhere(obj: RunObject, base_url: str) -> dict[str, Any]:
    url = f"{base_url.rstrip('/')}/api/v1/namespaces/{obj.namespace}/runs/{obj.run_id}"
    return {"outputTruncated": True, "outputUrl": url}


def without_documents(status: dict[str, Any], obj: RunObject, base_url: str, why: str) -> dict[str, Any]:
    """What is left of a status that the API server refused: it says how the run stands, whatever its output holds."""
    small = {key: value for key, value in status.items() if key not in {"steps", "output"}}
    elsewhere = _elsewhere(obj, base_url) if "output" in status else {}
    return {**small, **elsewhere, "message": shortened(f"this status is not complete: {why}", MAX_MESSAGE)}


def step_statuses(attempts: Iterable[StepAttempt], *, final: bool) -> list[dict[str, Any]]:
    """One entry a step, in the order in which they began; at most `MAX_STEPS`, the first ones. An item stands for its step
    until that has a result.
    """
    latest: dict[str, StepAttempt] = {}
    began: dict[str, datetime] = {}
    for attempt in sorted(attempts, key=lambda attempt: (attempt.item < 0, attempt.attempt)):
        latest[attempt.step] = attempt
        began.setdefault(attempt.step, attempt.started_at)
    order = sorted(latest, key=lambda name: (began[name], latest[name].finished_at, name))
    return [_step(latest[name], began[name], final=final) for name in order[:MAX_STEPS]]


def _step(attempt: StepAttempt, began: datetime, *, final: bool) -> dict[str, Any]:
    retrying = attempt.retry_at is not None and not final
    step = {
        "name": attempt.step,
        "status": "Retrying" if retrying else attempt.status.capitalize(),
        "attempts": attempt.attempt,
        "startTime": _text(began),
        "completionTime": None if retrying else _text(attempt.finished_at),
        "message": cut_bytes(attempt.message or "", MAX_STEP_MESSAGE) or None,
    }
    return {key: value for key, value in step.items() if value is not None}


def _run_message(run: RunDetails, steps: Sequence[StepAttempt]) -> str:
    if run.status == "waiting":
        return _waits_for(run, steps)
    if run.error is None:
        return ""
    message = str(run.error.get("message", ""))
    step = run.error.get("step")
    return f"step {step}: {message}" if step else message


def _waits_for(run: RunDetails, steps: Sequence[StepAttempt]) -> str:
    """What a waiting run waits for: a decision, the next try of a step, or a moment."""
    if run.approval is not None:
        until = f" until {_text(run.due_at)}" if run.due_at else ""
        return f"step {run.approval} waits for an approval{until}"
    retries = [step for step in steps if step.retry_at is not None and step.retry_at == run.due_at]
    if retries:
        item = "" if retries[0].item < 0 else f"item {retries[0].item} of "
        return f"{item}step {retries[0].step} is tried again at {_text(run.due_at)}: {retries[0].message or ''}"
    return f"until {_text(run.due_at)}" if run.due_at else ""


def shortened(text: str, characters: int) -> str:
    """The text, cut to so many characters with an ellipsis for the rest."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def cut_bytes(text: str, size: int) -> str:
    """The text, cut to so many bytes of UTF-8 with an ellipsis for the rest."""
    encoded = text.encode()
    if len(encoded) <= size:
        return text
    return encoded[: size - len("…".encode())].decode(errors="ignore") + "…"


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
