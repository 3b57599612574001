"""Manifests on the command line: checked as a whole, and the one workflow that is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.actions.registry import default_actions
from stepwell.adapters.secrets.local import check_secrets
from stepwell.domain.compile import compile_revision
from stepwell.domain.errors import ManifestError, Problem, UsageError
from stepwell.domain.manifest import read_text
from stepwell.domain.schema import check_object
from stepwell.domain.spec import Workflow
from stepwell.domain.validation import validate_documents
from stepwell_cli.sources import read_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.domain.documents import JsonValue
    from stepwell.domain.manifest import Document


def check_files(names: Sequence[str]) -> tuple[list[Document], list[Problem]]:
    """The documents of all files together, and every problem in them by file and line. Raises UsageError."""
    documents: list[Document] = []
    problems: list[Problem] = []
    for name in names:
        text, shown = read_file(name)
        found, refused = read_text(text, shown)
        documents += found
        problems += refused
    problems += validate_documents(documents, default_actions()) + check_secrets(documents)
    order = {name: index for index, name in enumerate(dict.fromkeys(p.file for p in problems))}
    return documents, sorted(problems, key=lambda p: (order[p.file], p.line or 0))


def load_files(names: Sequence[str]) -> list[Document]:
    """The documents of files. Raises ManifestError with every problem."""
    documents, problems = check_files(names)
    if problems:
        raise ManifestError(problems)
    return documents


def workflows(documents: Sequence[Document]) -> list[tuple[Document, Workflow]]:
    """The Workflows among documents."""
    return [(document, document.model) for document in documents if isinstance(document.model, Workflow)]


def chosen(documents: Sequence[Document], name: str | None, file: str) -> tuple[Document, Workflow]:
    """The workflow called ``name``, or ``namespace/name``, else the first. Raises UsageError."""
    found = workflows(documents)
    if not found:
        message = f"{file}: holds no Workflow"
        raise UsageError(message)
    if name is None:
        return found[0]
    for document, workflow in found:
        if name in {document.name, f"{document.namespace}/{document.name}"}:
            return document, workflow
    known = ", ".join(f"{document.namespace}/{document.name}" for document, _ in found)
    message = f"{file}: holds no Workflow {name!r}; there are: {known}"
    raise UsageError(message)


def check_input(workflow: Workflow, value: JsonValue) -> None:
    """Refuse an input before anything is started. Raises InputError with every problem."""
    schema = compile_revision(workflow.spec, default_actions()).input_schema
    if schema is None:
        check_object(value)
    else:
        schema.validate(value)
