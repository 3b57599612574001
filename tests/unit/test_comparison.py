"""docs/comparison.md counts what it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import commands
import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
MANIFESTS = DOCS / "comparison"
PERMISSIONS = {"Role", "RoleBinding", "ServiceAccount", "Secret"}


def documents(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((MANIFESTS / name).read_text("utf-8")) if each]


def lines(objects: list[dict[str, Any]]) -> int:
    """In block style, which is the same for everybody."""
    return sum(len(yaml.safe_dump(each, width=10_000).splitlines()) for each in objects)


def counted(*names: str) -> tuple[int, int, int]:
    """Objects, lines, and those for permissions; without Secrets that hold keys, which everybody needs."""
    objects = [each for name in names for each in documents(name) if "stringData" not in each]
    return len(objects), lines(objects), lines([each for each in objects if each["kind"] in PERMISSIONS])


def told(name: str) -> tuple[int, ...]:
    """The numbers in the table's row that links this file; an empty cell is left out."""
    (row,) = re.findall(
        rf"^\|.*\(comparison/{name}\)[^|]*\|(.*)\|$", (DOCS / "comparison.md").read_text("utf-8"), re.MULTILINE
    )
    return tuple(int(cell) for cell in row.split("|") if cell.strip())


@pytest.mark.parametrize(
    ("row", "files"),
    [
        ("stepwell.yaml", ["stepwell.yaml"]),
        ("stepwell-rbac.yaml", ["stepwell.yaml", "stepwell-rbac.yaml"]),
        ("argo-workflows.yaml", ["argo-workflows.yaml"]),
        ("argo-events.yaml", ["argo-events.yaml"]),
    ],
)
def test_the_manifests_are_as_long_as_told(row: str, files: list[str]) -> None:
    assert told(row) == counted(*files)


def test_the_program_is_as_long_as_told() -> None:
    text = (MANIFESTS / "temporal.py").read_text("utf-8")
    assert told("temporal.py") == (len(re.findall(r"^\s*[^\s#]", text, re.MULTILINE)), 0)


def test_ours_is_valid_and_its_permissions_are_what_the_command_prints() -> None:
    assert commands.within("validate", MANIFESTS / "stepwell.yaml").returncode == 0
    printed = commands.within("rbac", MANIFESTS / "stepwell.yaml").stdout
    assert [each for each in yaml.safe_load_all(printed) if each] == documents("stepwell-rbac.yaml")


def test_all_of_them_make_the_same_call() -> None:
    for name in ("stepwell.yaml", "argo-workflows.yaml", "argo-events.yaml", "temporal.py"):
        assert "https://api.example.com/users" in (MANIFESTS / name).read_text("utf-8")
