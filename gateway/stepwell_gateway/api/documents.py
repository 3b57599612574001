"""Rows as documents of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.domain.states import RunStatus, StepStatus
from stepwell.engine.ports import PRIORITIES
from stepwell_gateway.api.models import (
    HIDDEN,
    RunDetail,
    RunDocument,
    RunError,
    StepDocument,
    StepOutline,
    TriggerDocument,
    WorkflowDetail,
    WorkflowDocument,
)

if TYPE_CHECKING:
    from stepwell.adapters.postgres.run_reader import Attempt, RunDocuments, RunSummary, WorkflowSummary
    from stepwell.domain.documents import JsonObject

_COMMON = frozenset({"name", "needs", "if", "forEach", "retry", "onError", "timeout"})
_TRIGGER = frozenset({"name", "if", "input", "idempotencyKey"})


def run_document(run: RunSummary) -> RunDocument:
    """A run without payloads."""
    return RunDocument(**_fields(run))


def run_detail(run: RunSummary, documents: RunDocuments | None) -> RunDetail:
    """A run with its payloads, or with a note in their place."""
    if documents is None:
        return RunDetail(**_fields(run), note=HIDDEN)
    fields = _fields(run) | {"error": _whole_error(documents.error)}
    return RunDetail(**fields, input=documents.input, output=documents.output)


def step_document(attempt: Attempt, *, payloads: bool) -> StepDocument:
    """An attempt, with payloads or without."""
    fields: dict[str, Any] = {
        "step": attempt.step,
        "item_index": None if attempt.item_index < 0 else attempt.item_index,
        "items": attempt.items,
        "attempt": attempt.attempt,
        "status": StepStatus(attempt.status),
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "retry_at": attempt.retry_at,
        "copied": attempt.copied,
        "error": _whole_error(attempt.error) if payloads else _bare_error(attempt.error),
    }
    if payloads:
        fields |= {"http": attempt.http, "input": attempt.input, "output": attempt.output}
    return StepDocument(**fields)


def workflow_document(namespace: str, workflow: WorkflowSummary) -> WorkflowDocument:
    """A workflow as lists show it."""
    return WorkflowDocument(**_workflow_fields(namespace, workflow))


def workflow_detail(namespace: str, workflow: WorkflowSummary) -> WorkflowDetail:
    """A workflow with its triggers and steps."""
    spec: Any = workflow.spec or {}
    return WorkflowDetail(
        **_workflow_fields(namespace, workflow),
        triggers=[TriggerDocument(name=t["name"], type=_kind(t, _TRIGGER)) for t in spec.get("triggers", ())],
        **{word: [_outline(step) for step in spec.get(word, ())] for word in ("steps", "onFailure", "finally")},
    )


def _outline(step: dict[str, Any]) -> StepOutline:
    return StepOutline(name=step["name"], action=_kind(step, _COMMON))


def _fields(run: RunSummary) -> dict[str, Any]:
    error = None if run.reason is None else RunError(reason=run.reason, step=run.failed_step)
    return {
        "id": run.id,
        "namespace": run.namespace,
        "workflow": run.workflow,
        "status": RunStatus(run.status),
        "trigger": run.trigger,
        "priority": PRIORITIES[run.priority],
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "cancel_requested": run.cancel_requested,
        "retry_of": run.retry_of,
        "rerun_of": run.rerun_of,
        "error": error,
    }


def _workflow_fields(namespace: str, workflow: WorkflowSummary) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "name": workflow.name,
        "description": workflow.description,
        "suspended": workflow.suspended,
        "revision": workflow.revision_id,
        "created_at": workflow.created_at,
        "updated_at": workflow.updated_at,
    }


def _whole_error(error: JsonObject | None) -> RunError | None:
    return None if error is None else RunError.model_validate(error)


def _bare_error(error: JsonObject | None) -> RunError | None:
    return None if error is None else RunError(reason=str(error.get("reason", "")))


def _kind(fields: JsonObject, common: frozenset[str]) -> str:
    """What a step or trigger is: the one field that not all have."""
    return next((name for name in fields if name not in common), "")
