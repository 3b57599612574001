"""How other commands find the `stepwell dev` of their folder, and two of them each other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stepwell.domain.errors import UnavailableError
from stepwell.settings import Settings
from stepwell_cli.dev.folder import NAME, find, held, published

if TYPE_CHECKING:
    from pathlib import Path

URL = "http://127.0.0.1:8080"
SETTINGS = Settings(database_url="postgresql://x:secret@y/z", redis_url="redis://r")


def test_it_is_found_in_its_folder_and_below_while_it_lives(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    with held(tmp_path / NAME):
        assert find(below) is None, "not ready yet"
        with published(tmp_path / NAME, SETTINGS, URL, "t0ken"):
            live = find(below)
            assert live
            assert (live.pid, live.folder, live.database_url) == (os.getpid(), tmp_path, SETTINGS.database_url)
            assert (live.url, live.token) == (URL, "t0ken")
            assert "t0ken" not in repr(live)
            assert (tmp_path / NAME / "dev.json").stat().st_mode & 0o777 == 0o600
        assert find(below) is None
    assert (tmp_path / NAME / ".gitignore").read_text() == "*\n"


def test_what_a_dead_one_left_is_not_believed(tmp_path: Path) -> None:
    with held(tmp_path / NAME), published(tmp_path / NAME, SETTINGS, URL, "t0ken"):
        left = (tmp_path / NAME / "dev.json").read_bytes()
    (tmp_path / NAME / "dev.json").write_bytes(left)
    assert find(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 1}', '{"pid": "x"}'])
def test_a_file_of_another_version_is_passed_over(tmp_path: Path, text: str) -> None:
    with held(tmp_path / NAME):
        (tmp_path / NAME / "dev.json").write_text(text)
        assert find(tmp_path) is None


def test_a_second_one_is_refused(tmp_path: Path) -> None:
    with held(tmp_path / NAME):
        with pytest.raises(UnavailableError, match=f"runs in {tmp_path} already, as process {os.getpid()}"):
            held(tmp_path / NAME).__enter__()
        with pytest.raises(UnavailableError):  # the first refusal let go of nothing
            held(tmp_path / NAME).__enter__()
    with held(tmp_path / NAME):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("a file")
    with pytest.raises(UnavailableError, match="cannot keep data in"):
        held(tmp_path / NAME).__enter__()
