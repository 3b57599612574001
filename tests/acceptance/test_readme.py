"""README.md: its first five minutes and what follows them, typed into terminals as they stand, and what they show."""

from __future__ import annotations

import re
import shutil
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import commands
import pytest
from http_servers import unused_port
from tutorial import Reader, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README = (commands.ROOT / "README.md").read_text("utf-8")
CHAPTERS = ("The first five minutes", "Your own workflow")
HURRY = {"/slow/10,": "/slow/1,", "sleep 1\n": "sleep 0.4\n"}  #: a reader has more time than a test


@pytest.fixture
def ports() -> dict[str, str]:
    """Others for those of the text, which another process may have."""
    return {each: str(unused_port()) for each in ("8080", "8099")}


@pytest.fixture
def clone(tmp_path: Path, ports: dict[str, str]) -> Path:
    """As much of a clone as the text speaks of, after `make run`. The examples use the ports of the test."""
    folder = tmp_path / "stepwell"
    (folder / ".venv").mkdir(parents=True)
    (folder / ".venv" / "bin").symlink_to(sys.executable.rpartition("/")[0])
    shutil.copytree(commands.EXAMPLES, folder / "examples")
    for example in (folder / "examples").iterdir():
        example.write_text(example.read_text("utf-8").replace("8099", ports["8099"]), "utf-8")
    return folder


@contextmanager
def reader(clone: Path, instead: dict[str, str]) -> Iterator[Reader]:
    made = Reader(
        clone, clone.parent / "scratch", commands.environment(TERM="xterm", PORT=instead["8080"]), instead | HURRY
    )
    made.scratch.mkdir()
    try:
        yield made
    finally:
        made.close()


def test_it_is_as_the_text_says(clone: Path, ports: dict[str, str]) -> None:
    chapters = [blocks(chapter, README) for chapter in CHAPTERS]
    assert [len(chapter) for chapter in chapters] >= [8, 2]
    with reader(clone, ports) as following:
        for chapter in chapters:
            following.follow(chapter)


def test_the_sample_is_shown_as_it_is() -> None:
    sample = re.sub(r" *#.*", "", (commands.EXAMPLES / "test-workflow.yaml").read_text("utf-8")).strip()
    assert f"```yaml\n{sample}\n```" in README


def test_the_picture_is_of_the_sample() -> None:
    """Its letters stand in the SVG, with spaces that do not break."""
    picture = (commands.ROOT / "docs" / "images" / "run.svg").read_text("utf-8").replace("&#160;", " ")
    for words in ("make run", "default/welcome", "notify", "SELECT id, status FROM workflow_runs;"):
        assert words in picture
