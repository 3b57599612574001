"""The checks of admission, offline: what ``stepwell validate`` and the admission webhook say about documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.domain.compile import compile_revision
from stepwell.domain.errors import InputError, ManifestError, Problem
from stepwell.domain.spec import Workflow, WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell.domain.action import Actions
    from stepwell.domain.manifest import Document
    from stepwell.domain.revision import Revision


def validate_documents(docs: Iterable[Document], actions: Actions) -> list[Problem]:
    """Every problem of documents that are sound one by one, with file and line, in their order."""
    documents = list(docs)
    problems = _duplicates(documents)
    revisions: dict[tuple[str, str], Revision] = {}
    for document in documents:
        if isinstance(document.model, Workflow):
            try:
                revisions[document.namespace, document.name] = compile_revision(document.model.spec, actions)
            except ManifestError as exc:
                found = [document.located(problem) for problem in exc.problems]
                problems += sorted(found, key=lambda problem: problem.line or 0)
    for document in documents:
        if isinstance(document.model, WorkflowRun):
            problems += _run(document, document.model, revisions)
    return problems


def _duplicates(documents: list[Document]) -> list[Problem]:
    seen: dict[tuple[str, str, str], Document] = {}
    problems = []
    for document in documents:
        first = seen.setdefault((document.kind, document.namespace, document.name), document)
        if first is not document and document.name:
            where = f"{first.file}:{first.line}"
            message = f"{document.kind} {document.namespace}/{document.name} stands already at {where}; keep one"
            problems.append(document.located(Problem("metadata.name", message)))
    return problems


def _run(document: Document, run: WorkflowRun, revisions: dict[tuple[str, str], Revision]) -> list[Problem]:
    """A run's input against the schema, where its workflow is among the documents."""
    revision = revisions.get((document.namespace, run.spec.workflow_ref.name))
    if revision is None or revision.input_schema is None:
        return []
    try:
        revision.input_schema.validate(run.spec.input or {})
    except InputError as exc:
        lines = (line.partition(": ") for line in str(exc).splitlines())
        return [
            document.located(Problem(f"spec.{path}" if text else "spec.input", text or path)) for path, _, text in lines
        ]
    return []
