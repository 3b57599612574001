"""docs/tutorial.md, the part without a cluster: its commands as they stand, in a fresh folder, and what they show."""

from __future__ import annotations

import fcntl
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import commands
import pytest
from http_servers import unused_port
from tutorial import Reader, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAPTER = "On your machine"
INSTALLED = frozenset({"make install"})  #: .ci/run does it
PORTS = ("8080", "8098", "8099")


@pytest.fixture
def ports() -> Iterator[dict[str, str]]:
    """None if the text's ports are free and no other process follows it just now; else what stands in for them."""
    with ExitStack() as stack:
        lock = stack.enter_context((Path(tempfile.gettempdir()) / "stepwell-tutorial.lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _listen()
        except OSError:
            yield {each: str(unused_port()) for each in PORTS}
        else:
            yield {}


def _listen() -> None:
    with ExitStack() as stack:
        for each in PORTS:
            stack.enter_context(socket.create_server(("127.0.0.1", int(each))))


@pytest.fixture
def clone(tmp_path: Path, ports: dict[str, str]) -> Path:
    """What a clone is after `make install`."""
    folder = tmp_path / "stepwell"
    (folder / ".venv").mkdir(parents=True)
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (folder / "examples").mkdir()
    receiver = (commands.EXAMPLES / "receiver.py").read_text("utf-8")
    (folder / "examples" / "receiver.py").write_text(receiver.replace("8099", ports.get("8099", "8099")), "utf-8")
    return folder


@pytest.fixture
def reader(clone: Path, ports: dict[str, str]) -> Iterator[Reader]:
    environment = commands.environment(HOME=str(clone.parent), TERM="xterm", PORT=ports.get("8080", "8080"))
    made = Reader(clone, clone.parent / "scratch", environment, ports, INSTALLED)
    yield made
    made.close()


def test_it_is_as_the_text_says(reader: Reader) -> None:
    reader.follow(blocks(CHAPTER))
    assert not (reader.folder.parent / "first-steps").exists()
    shown = reader.terminal("second").everything()
    assert sum("POST /charges" in line for line in shown) == 2, "one for each order, though the first one was cut off"
    assert sum("POST /figures" in line for line in shown) == 1, "the retry began behind it"
