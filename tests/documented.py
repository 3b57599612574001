"""The commands of the documentation, run as they stand."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from commands import ROOT, STEPWELL, environment

from stepwell.domain.errors import UnavailableError
from stepwell_cli.embedded.wheels import postgres_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = ROOT / "docs"
TIMEOUT = 60.0  #: seconds a block may take

# redis-cli's `-u URL COMMAND …`, which knows no URL of a unix socket.
_REDIS_CLI = """
import sys, redis
assert sys.argv[1] == "-u", sys.argv
print(redis.Redis.from_url(sys.argv[2], decode_responses=True).execute_command(*sys.argv[3:]))
"""


def blocks(page: str, heading: str) -> list[str]:
    """The indented blocks of commands under a heading of docs/``page``, up to the next heading."""
    text = (DOCS / page).read_text("utf-8")
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/{page} has no heading {heading!r}"
    return _blocks(section[1])


def all_blocks(folder: str) -> set[str]:
    """Those of all pages of a folder of docs/."""
    return {block for page in (DOCS / folder).glob("*.md") for block in _blocks(page.read_text("utf-8"))}


def _blocks(text: str) -> list[str]:
    found = re.findall(r"(?:(?<=\n\n)|\A)((?:    .*\n|\n(?=    ))+)", text)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip() for block in found]


def programs(dsn: str) -> Path:
    """Where psql, pg_dump and pg_restore of the server's version are; the test is skipped where they are missing."""
    with psycopg.connect(dsn) as connection:
        version = connection.info.server_version // 10_000
    for place in _places(version):
        if (place / "pg_restore").exists() and f" {version}." in _version_of(place):
            return place
    pytest.skip(f"psql, pg_dump and pg_restore of PostgreSQL {version} are not installed")


def _places(version: int) -> Iterator[Path]:
    with contextlib.suppress(UnavailableError):
        yield postgres_programs()
    yield Path(f"/usr/lib/postgresql/{version}/bin")
    found = shutil.which("pg_restore")
    if found:
        yield Path(found).resolve().parent


def _version_of(place: Path) -> str:
    return subprocess.run([place / "pg_restore", "--version"], capture_output=True, text=True, check=True).stdout


class Shell:
    """Runs blocks in a directory of its own. kubectl is noted in ``cluster``, and does nothing; stepwell is ours."""

    def __init__(self, directory: Path, dsn: str, **variables: str) -> None:
        self.directory = directory
        self.variables = {"DATABASE_URL": dsn, **variables}
        self._programs = programs(dsn)
        self._bin = directory / "bin"
        self._bin.mkdir()
        self._noted = directory / "kubectl.txt"
        self._noted.touch()
        self._program("kubectl", f'#!/bin/sh\n[ -t 0 ] || cat > /dev/null\necho "$*" >> {self._noted}\n')
        self._program("redis-cli", f"#!{sys.executable}{_REDIS_CLI}")
        (self._bin / "stepwell").symlink_to(STEPWELL)

    def _program(self, name: str, text: str) -> None:
        path = self._bin / name
        path.write_text(text, "utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, block: str) -> str:
        """What the block prints. It must succeed, every command of it."""
        path = os.pathsep.join(map(str, (self._bin, self._programs, os.environ["PATH"])))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], env=environment(**self.variables, PATH=path), cwd=self.directory,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout

    @property
    def cluster(self) -> list[str]:
        """What kubectl was asked for."""
        return self._noted.read_text("utf-8").splitlines()
