"""What the webhook says about one object: the checks of `stepwell validate` and the advice, without any I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stepwell.domain.advice import advice
from stepwell.domain.errors import Problem
from stepwell.domain.manifest import read_object
from stepwell.domain.spec import API_VERSION, Workflow, WorkflowRun
from stepwell.domain.validation import validate_documents

if TYPE_CHECKING:
    from stepwell.domain.action import Actions
    from stepwell.domain.documents import JsonObject
    from stepwell.domain.manifest import Document
    from stepwell_operator.admission.reviews import Review

_RUN = "run"
_WORKFLOW = "workflow"


def check_workflow(review: Review, actions: Actions) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of a Workflow.

    An update that leaves the spec as it was passes: an object that is wrong already can still be labelled or deleted.
    """
    if review.old is not None and review.old.get("spec") == review.value.get("spec"):
        return [], []
    document, problems = _read(review, review.value, _WORKFLOW)
    if document is None:
        return problems, []
    problems = _plain(validate_documents([document], actions))
    return problems, advice(document.model.spec) if isinstance(document.model, Workflow) else []


def check_run(review: Review, workflow: JsonObject | None, actions: Actions) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of a new WorkflowRun; ``workflow`` is the one that it names, None where there is none."""
    document, problems = _read(review, review.value, _RUN)
    if document is None or not isinstance(document.model, WorkflowRun):
        return problems, []
    if workflow is None:
        name = document.model.spec.workflow_ref.name
        return [], [Problem("spec.workflowRef.name", f"there is no Workflow {name} in namespace {review.namespace}")]
    named, _ = _read(review, workflow, _WORKFLOW)
    documents = [document] if named is None else [named, document]
    return _plain([problem for problem in validate_documents(documents, actions) if problem.file == _RUN]), []


def workflow_of(review: Review) -> str | None:
    """The name of the Workflow that a WorkflowRun is to start, where it states one."""
    spec = review.value.get("spec")
    reference = spec.get("workflowRef") if isinstance(spec, dict) else None
    name = reference.get("name") if isinstance(reference, dict) else None
    return name if isinstance(name, str) else None


def _read(review: Review, value: JsonObject, file: str) -> tuple[Document | None, list[Problem]]:
    """Read an object as the API server has it: the name of one that is being created may not be in it yet."""
    metadata = value.get("metadata")
    given = dict(metadata) if isinstance(metadata, dict) else {}
    given["namespace"] = review.namespace or "default"
    stated = {**value, "apiVersion": API_VERSION, "metadata": given}
    return read_object(stated, file)


def _plain(problems: list[Problem]) -> list[Problem]:
    return [replace(problem, file=None, line=None) for problem in problems]
