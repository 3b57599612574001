"""The package: what the wheel holds, and the roots that must not be packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("core", "operator", "gateway", "worker", "cli")
SUFFIXES = {".py", ".sql", ".lua"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in the wheel."""
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(target.glob("*.whl"))) as archive:
        return archive.namelist()


def test_the_wheel_holds_all_that_is_read_at_run_time(wheel: list[str]) -> None:
    packages = [path for root in SOURCES for path in (ROOT / root).glob("stepwell*") if path.is_dir()]
    wanted = {
        str(PurePosixPath(path.relative_to(package.parent)))
        for package in packages
        for path in package.rglob("*")
        if path.suffix in SUFFIXES or path.name == "py.typed"
    }
    wanted |= {f"stepwell/adapters/postgres/migrations/{path.name}" for path in (ROOT / "migrations").glob("*.sql")}
    assert wanted <= set(wheel)


def test_the_wheel_holds_nothing_else(wheel: list[str]) -> None:
    packages = {name.split("/")[0] for name in wheel}
    assert {name for name in packages if not name.endswith(".dist-info")} <= {f"stepwell{end}" for end in ENDS}
    files = [PurePosixPath(name) for name in wheel if ".dist-info/" not in name]
    assert [str(name) for name in files if name.suffix not in SUFFIXES and name.name != "py.typed"] == []


def test_every_package_is_typed(wheel: list[str]) -> None:
    packages = {name.split("/")[0] for name in wheel if ".dist-info/" not in name}
    assert {f"{name}/py.typed" for name in packages} <= set(wheel)


def test_the_roots_are_no_packages() -> None:
    """A top-level package `operator` would shadow the standard library's, and Python would not start."""
    assert [root for root in SOURCES if (ROOT / root / "__init__.py").exists()] == []
    assert not (ROOT / "tests" / "operator").exists()


def test_the_lock_pins_what_the_project_asks_for_and_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text("utf-8")
    locked = {_canonical(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *(need for extra in project["optional-dependencies"].values() for need in extra)]
    names = {_canonical(re.split(r"[\[<>=!~; ]", need)[0]) for need in asked} - {"stepwell"}
    assert names <= locked
    assert "://" not in text


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


ENDS = ("", "_operator", "_gateway", "_worker", "_cli")
