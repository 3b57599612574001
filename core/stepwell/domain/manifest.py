"""Loads manifests: from a text to documents that mean what the API server would store.

Every problem of the whole text is found before it is refused, each with its file and line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import ValidationError

from stepwell.domain.documents import JsonObject, JsonValue, dumps
from stepwell.domain.errors import ManifestError, Problem
from stepwell.domain.json_values import value_problems
from stepwell.domain.model_problems import problems_of, shown
from stepwell.domain.spec import API_VERSION, GROUP, Metadata, Workflow, WorkflowRun
from stepwell.domain.status_fields import status_problems
from stepwell.domain.stored import as_stored
from stepwell.domain.yaml_text import Parsed, parse_text

if TYPE_CHECKING:
    from stepwell.domain.model import Model

MAX_SPEC_BYTES = 200 * 1024
MAX_INPUT_BYTES = 64 * 1024

AnyModel: TypeAlias = Workflow | WorkflowRun
MODELS: dict[str, type[Workflow | WorkflowRun]] = {"Workflow": Workflow, "WorkflowRun": WorkflowRun}
DEFAULT_NAMESPACE = "default"
_STATED = ("name", "generateName", "namespace", "labels", "annotations")  # of an object's metadata


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a manifest. ``raw`` is it as stored; ``model`` is None for a Secret.

    ``name`` is "" where a WorkflowRun has a ``generateName`` instead; ``line`` counts from 1.
    """

    file: str
    line: int
    kind: str
    namespace: str
    name: str
    raw: JsonObject
    lines: dict[str, int]
    model: AnyModel | None
    generate_name: str = ""

    def line_of(self, path: str) -> int:
        """The line of a path, or of the nearest parent that stands in the text."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, self.line)

    def located(self, problem: Problem) -> Problem:
        """The problem with file and line."""
        line = problem.line if problem.line is not None else self.line_of(problem.path)
        return replace(problem, file=self.file, line=line)


def load_text(text: str, file: str) -> list[Document]:
    """The documents of a text. Raises ManifestError with every problem."""
    documents, problems = read_text(text, file)
    if problems:
        raise ManifestError(problems)
    return documents


def read_text(text: str, file: str) -> tuple[list[Document], list[Problem]]:
    """The documents that are sound, and the problems of the others, by line."""
    problems: list[Problem] = []
    drafts = [_document(parsed, file, problems) for parsed in parse_text(text, problems)]
    documents = [draft for draft in drafts if draft is not None]
    located = [replace(problem, file=file) for problem in problems]
    return documents, sorted(located, key=lambda problem: problem.line or 0)


def read_object(value: JsonObject, file: str = "") -> tuple[Document | None, list[Problem]]:
    """An object that is JSON already, as an API server holds it: its document if it is sound, and its problems.

    Of its metadata only what a manifest may state is looked at; the rest is the API server's.
    """
    metadata = value.get("metadata")
    stated = {key: metadata[key] for key in _STATED if key in metadata} if isinstance(metadata, dict) else {}
    draft = Document(file, 1, "", DEFAULT_NAMESPACE, "", {**value, "metadata": stated, "status": None}, {}, None)
    problems = list(value_problems(value.get("spec"), "spec"))
    document = None if problems else _known(draft, problems)
    return (None if problems else document), problems


def _document(parsed: Parsed, file: str, problems: list[Problem]) -> Document | None:
    value = parsed.value
    if not isinstance(value, dict):
        message = f"a manifest is a map with apiVersion, kind, metadata and spec, not {shown(value)}"
        problems.append(Problem("", message, parsed.line))
        return None
    draft = Document(file, parsed.line, "", DEFAULT_NAMESPACE, "", value, parsed.lines, None)
    found: list[Problem] = []
    document = _known(draft, found)
    problems += [draft.located(problem) for problem in found]
    return None if found else document


def _known(draft: Document, problems: list[Problem]) -> Document | None:
    raw = draft.raw
    version, kind = raw.get("apiVersion"), raw.get("kind")
    if version == "v1" and kind == "Secret":
        return _secret(draft, problems)
    if version == API_VERSION and isinstance(kind, str) and kind in MODELS:
        return _custom(draft, MODELS[kind], problems)
    problems.append(_refused(version, kind))
    return None


def _refused(version: JsonValue, kind: JsonValue) -> Problem:
    known = f"Workflow and WorkflowRun of {API_VERSION} and Secret of v1"
    if version is None or kind is None:
        missing = " and ".join(name for name, value in (("apiVersion", version), ("kind", kind)) if value is None)
        return Problem("", f"{missing} must be set; Stepwell reads {known}")
    if kind in MODELS and str(version).startswith(GROUP):
        return Problem("apiVersion", f"{shown(version)} is not known here; write {API_VERSION}")
    message = f"kind {shown(kind)} of apiVersion {shown(version)} is not one that Stepwell reads ({known})"
    return Problem("kind", f"{message}; keep it in a file of its own")


def _secret(draft: Document, problems: list[Problem]) -> Document:
    raw: JsonObject = {key: value for key, value in draft.raw.items() if value is not None}
    try:
        metadata = Metadata.model_validate(raw.get("metadata", {}))
    except ValidationError as exc:
        problems += problems_of(exc, Metadata, "metadata")
        return draft
    if metadata.name is None:
        problems.append(Problem("metadata.name", "is required, but not set"))
    return replace(draft, kind="Secret", namespace=metadata.namespace, name=metadata.name or "", raw=raw)


def _custom(draft: Document, kind: type[Workflow | WorkflowRun], problems: list[Problem]) -> Document | None:
    raw = as_stored(draft.raw, kind, problems)
    _check_sizes(raw, problems)
    problems += status_problems(draft.raw.get("status"), kind.__name__)
    try:
        model: Any = kind.model_validate(raw)
    except ValidationError as exc:
        problems += problems_of(exc, kind)
        return None
    metadata = model.metadata
    _check_name(metadata, kind, problems)
    return replace(
        draft,
        kind=kind.__name__,
        namespace=metadata.namespace,
        name=metadata.name or "",
        generate_name=metadata.generate_name or "" if metadata.name is None else "",
        raw=raw,
        model=model,
    )


def _check_name(metadata: Metadata, kind: type[Model], problems: list[Problem]) -> None:
    if metadata.name is not None:
        return
    if kind is WorkflowRun and metadata.generate_name:
        return
    either = " (or generateName)" if kind is WorkflowRun else ""
    problems.append(Problem("metadata.name", f"is required{either}, but not set"))


def _check_sizes(raw: JsonObject, problems: list[Problem]) -> None:
    spec = raw.get("spec")
    run_input = spec.get("input") if isinstance(spec, dict) else None
    limits = (("spec", spec, MAX_SPEC_BYTES), ("spec.input", run_input, MAX_INPUT_BYTES))
    for path, value, limit in limits:
        size = len(dumps(value))
        if size > limit:
            problems.append(Problem(path, f"has {size:,} bytes as JSON; at most {limit:,} are allowed"))
