"""Reads a file of a folder in which all kinds of YAML may lie, and takes what is meant for Stepwell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.actions.registry import default_actions
from stepwell.adapters.secrets.local import check_secrets
from stepwell.domain.errors import Problem, UsageError
from stepwell.domain.manifest import read_text
from stepwell.domain.secrets import USE_LABEL
from stepwell.domain.spec import GROUP
from stepwell.domain.validation import validate_documents
from stepwell.domain.yaml_text import parse_text
from stepwell_cli.sources import read_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.domain.manifest import Document

_OURS = re.compile(rf"""^[\s{{"']*apiVersion["']?\s*:\s*["']?{re.escape(GROUP)}/""", re.MULTILINE)
_SECRET = re.compile(r"""kind["']?\s*:\s*["']?Secret\b""")
_LABEL = re.compile(rf"""{re.escape(USE_LABEL)}["']?\s*:\s*["']true""")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file as it was read: its documents, or why it is bad. Both are empty where it holds nothing for us."""

    documents: tuple[Document, ...] = ()
    problems: tuple[Problem, ...] = ()


def load(name: str, *, given: bool = False) -> Loaded:
    """A file's documents. One problem makes the whole file bad: what it held before goes on to count.

    All of a file that was ``given`` for its Secrets is meant for us.
    """
    try:
        text, _ = read_file(name)
    except UsageError as exc:
        return Loaded(problems=(Problem("", str(exc).removeprefix(f"{name}: "), None, name),))
    if given or _ours(text):
        return _checked(*read_text(text, name))
    return _secrets(text, *read_text(text, name)) if _SECRET.search(text) else Loaded()


def _ours(text: str) -> bool:
    """Whether a document is of our group. A file that cannot be parsed is ours where it looks so."""
    if _OURS.search(text) is None:
        return False
    broken: list[Problem] = []
    values = [parsed.value for parsed in parse_text(text, broken)]
    return bool(broken) or any(
        isinstance(value, dict) and str(value.get("apiVersion")).startswith(f"{GROUP}/") for value in values
    )


def _broken(text: str) -> bool:
    found: list[Problem] = []
    parse_text(text, found)
    return bool(found)


def _checked(documents: Sequence[Document], problems: Sequence[Problem]) -> Loaded:
    found = [*problems, *validate_documents(documents, default_actions()), *check_secrets(documents)]
    if found:
        return Loaded(problems=tuple(sorted(found, key=lambda problem: problem.line or 0)))
    return Loaded(tuple(documents))


def _secrets(text: str, documents: Sequence[Document], found: Sequence[Problem]) -> Loaded:
    """The Secrets among Kubernetes' own documents. A bad one is somebody else's, unless it carries our label."""
    if _LABEL.search(text) and _broken(text):
        return Loaded(problems=tuple(found))
    secrets = [document for document in documents if document.kind == "Secret"]
    problems = [problem for secret in secrets if for_workflows(secret) for problem in check_secrets([secret])]
    if problems:
        return Loaded(problems=tuple(problems))
    return Loaded(tuple(secret for secret in secrets if not check_secrets([secret])))


def for_workflows(secret: Document) -> bool:
    """Whether a Secret carries the label by which workflows may use it."""
    metadata = secret.raw.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    return isinstance(labels, dict) and labels.get(USE_LABEL) == "true"
