"""A manifest means to the local loader what the API server would store: the same are refused, and the rest is equal.

The table in `manifest_cases.py` says who refuses what. The loader is always held to it; where there is a real API server, so
is the table itself, by server-side dry-runs with strict field validation, without the webhook and with it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from kube_access import admitting
from manifest_cases import Verdict, cases

from stepwell.actions.registry import default_actions
from stepwell.domain.manifest import read_text
from stepwell.domain.spec import Workflow
from stepwell.domain.support import unsupported
from stepwell.domain.validation import validate_documents

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kube_server import KubeServer

CASES = cases()


def verdict(name: str) -> Verdict:
    """The table's; what this version does not run yet is refused by the webhook and the loader."""
    found, text = CASES[name]
    documents, _ = read_text(text, name)
    models = [document.model.spec for document in documents if isinstance(document.model, Workflow)]
    return Verdict.WEBHOOK if found is Verdict.NOBODY and any(map(unsupported, models)) else found


def loaded(name: str) -> tuple[dict[str, Any] | None, list[str]]:
    """The loader's spec, None where it refuses, and its problems."""
    documents, problems = read_text(CASES[name][1], name)
    problems = problems or validate_documents(documents, default_actions())
    specs: list[Any] = [document.raw["spec"] for document in documents]
    return (None if problems else specs[0]), list(map(str, problems))


def test_there_are_enough_and_of_every_kind() -> None:
    kinds = [verdict for verdict, _ in CASES.values()]
    assert len(CASES) >= 150
    assert min(kinds.count(verdict) for verdict in (Verdict.NOBODY, Verdict.SCHEMA, Verdict.WEBHOOK)) >= 20
    assert kinds.count(Verdict.LOADER) <= 6, "each one is a promise that only the loader can keep"


@pytest.mark.parametrize("name", CASES)
def test_the_loader_says_what_the_table_says(name: str) -> None:
    spec, problems = loaded(name)
    assert (spec is not None) is (verdict(name) is Verdict.NOBODY), problems
    assert all(problem.startswith(f"{name}:") for problem in problems), "each has its line"


@pytest.fixture(scope="module")
def stored(kube: KubeServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the API server by itself would store."""
    return dry_run(kube, tmp_path_factory.mktemp("manifests"))


@pytest.fixture(scope="module")
def admitted(
    kube: KubeServer, stored: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """The same with the webhook."""
    with admitting(kube):
        yield dry_run(kube, tmp_path_factory.mktemp("manifests"))


def dry_run(kube: KubeServer, directory: Path) -> dict[str, Any]:
    for name, (_, text) in CASES.items():
        (directory / f"{name}.yaml").write_text(text, "utf-8")
    done = kube.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", str(directory), check=False
    )
    return {_name(found): found["spec"] for found in _objects(done.stdout)}


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        found, at = decoder.raw_decode(text, at)
        yield from found["items"] if found["kind"] == "List" else [found]
        at += len(text[at:]) - len(text[at:].lstrip())


def _name(found: dict[str, Any]) -> str:
    metadata = found["metadata"]
    return metadata.get("generateName", metadata["name"] + "-").removesuffix("-")


@pytest.mark.parametrize("name", CASES)
def test_the_api_server_says_what_the_table_says(stored: dict[str, Any], name: str) -> None:
    assert (name in stored) is (CASES[name][0] is not Verdict.SCHEMA)


@pytest.mark.parametrize("name", CASES)
def test_the_webhook_refuses_what_the_loader_refuses(admitted: dict[str, Any], name: str) -> None:
    assert (name in admitted) is (verdict(name) in {Verdict.NOBODY, Verdict.LOADER})
    if verdict(name) is Verdict.NOBODY:
        assert canonical(admitted[name]) == canonical(loaded(name)[0])


def canonical(value: Any) -> str:
    """Go writes 2.0 as 2; true is not 1."""

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: plain(child) for key, child in node.items()}
        if isinstance(node, list):
            return [plain(child) for child in node]
        return int(node) if isinstance(node, float) and node.is_integer() else node

    return json.dumps(plain(value), sort_keys=True, indent=1)
