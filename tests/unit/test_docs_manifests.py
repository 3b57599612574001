"""Manifests in the documents: each is one that `stepwell validate` takes; and what is said of failures is complete."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent

import pytest

from stepwell.actions.registry import default_actions
from stepwell.domain.manifest import read_text
from stepwell.domain.spec import GROUP
from stepwell.domain.validation import validate_documents

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```yaml[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
AROUND = f"apiVersion: {GROUP}/v1alpha1\nkind: Workflow\nmetadata: {{name: shown}}\nspec:\n"


def _manifests() -> dict[str, str]:
    """Whole ones, and lists of steps with what belongs around them."""
    found: dict[str, str] = {}
    for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        for number, text in enumerate(FENCE.findall(page.read_text("utf-8")), 1):
            if text.startswith(f"apiVersion: {GROUP}/"):
                found[f"{page.name}-{number}"] = text
            elif text.startswith("steps:"):
                found[f"{page.name}-{number}"] = AROUND + indent(text, "  ")
    return found


MANIFESTS = _manifests()


@pytest.mark.parametrize("place", MANIFESTS)
def test_a_manifest_that_is_shown_is_valid(place: str) -> None:
    documents, problems = read_text(MANIFESTS[place], place)
    assert [*problems, *validate_documents(documents, default_actions())] == []


def test_they_are_found() -> None:
    assert len(MANIFESTS) >= 8


RAISED = re.compile(r'(?:StepFailure|SecretError|_Refusal|_network|refuse)\(\s*"([A-Z]\w+)"')
SOURCES = ("actions/http_*.py", "adapters/http/*.py", "adapters/kube/secrets.py", "adapters/secrets/*.py", "domain/secrets.py")  # fmt: skip
DEFECTS = {"InternalError", "NoHttpClient"}


def test_every_reason_of_a_failed_call_is_explained() -> None:
    table = (DOCS / "how-to-http-calls.md").read_text("utf-8").partition("## Why it failed")[2]
    explained = {reason for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for reason in re.findall(r"`(\w+)`", row)}  # fmt: skip
    sources = [path for pattern in SOURCES for path in (ROOT / "core/stepwell").glob(pattern)]
    raised = {reason for path in sources for reason in RAISED.findall(path.read_text("utf-8"))}
    assert raised - DEFECTS == explained
