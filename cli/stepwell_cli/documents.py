"""Runs as JSON documents: what ``--json`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell.adapters.postgres.history_store import RunRecord, RunState, StepRecord
    from stepwell_cli.progress import Progress


def state_document(run: RunState) -> dict[str, Any]:
    """A run without its documents."""
    return {
        "id": run.id,
        "namespace": run.namespace,
        "workflow": run.workflow,
        "status": run.status,
        "trigger": run.trigger,
        "createdAt": run.created_at,
        "startedAt": run.started_at,
        "finishedAt": run.finished_at,
    }


def run_document(run: RunRecord, steps: Iterable[StepRecord]) -> dict[str, Any]:
    """A run with everything that is known of it."""
    return {
        **state_document(run),
        "input": run.input,
        "output": run.output,
        "error": run.error,
        "steps": [step_document(step) for step in steps],
    }


def progress_document(progress: Progress) -> dict[str, Any]:
    """A run as it is followed: the state of every step, also of those that have not begun."""
    steps = [
        {
            "step": step.name,
            "action": step.action,
            "state": step.state,
            "attempt": step.attempt,
            "retryAt": step.retry_at,
            **({} if step.items is None else {"items": {"done": step.items[0], "all": step.items[1]}}),
        }
        for step in progress.steps
    ]
    return {**state_document(progress.run), "steps": steps}


def step_document(step: StepRecord) -> dict[str, Any]:
    """One attempt of a step."""
    return {
        "step": step.step,
        "itemIndex": None if step.item_index < 0 else step.item_index,
        "items": step.items,
        "attempt": step.attempt,
        "status": step.status,
        "startedAt": step.started_at,
        "finishedAt": step.finished_at,
        "retryAt": step.retry_at,
        "input": step.input,
        "output": step.output,
        "error": step.error,
        "http": step.http,
    }
