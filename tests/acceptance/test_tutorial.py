"""docs/tutorial.md, the part without a cluster: its commands as they stand, in a fresh folder, and what they show.

The part with a cluster is followed by tests/controller/test_image.py, where its pods are.
"""

from __future__ import annotations

import fcntl
import json
import socket
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import commands
import manifests
import pytest
import tutorial
import tutorial_cluster
import yaml
from http_servers import unused_port
from tutorial import TEXT, Reader, agrees, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAPTER = "On your machine"
INSTALLED = frozenset({"make install"})  #: .ci/run does it
PORTS = ("8080", "8098", "8099")


@pytest.fixture
def ports() -> Iterator[dict[str, str]]:
    """What stands in for the text's ports: nothing where they are free, and no other process follows it just now."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context((Path(tempfile.gettempdir()) / "stepwell-tutorial.lock").open("w"))
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
    (accepted,) = _runs(reader, " 202")
    assert _runs(reader, " 200") == [accepted]


def _runs(reader: Reader, answer: str) -> list[str]:
    """The runs that curl was told of with this status."""
    lines = [each for each in reader.terminal("first").everything() if each.endswith(answer)]
    return [json.loads(each.removesuffix(answer))["runId"] for each in lines]


@pytest.mark.parametrize(
    ("shown", "came", "whole", "agree"),
    [
        ("a … c\n", ["a b c"], True, True),
        ("a … c\n", ["a b d"], True, False),
        ("a  b\n\nc\n", ["a b", "c"], True, True),
        ("a\nc\n", ["a", "b", "c"], True, False),
        ("a\n…\nc\n", ["a", "b", "b", "c"], True, True),
        ("a\n", ["an earlier frame of a table", "a"], True, True),
        ("a\n", ["a", "an error"], True, False),
        ("a.c\n", ["abc"], True, False),
        ("a\n", [], True, False),
        ("b\na\n", ["a", "x", "b"], False, True),
        ("b\na\n", ["a", "x"], False, False),
    ],
)
def test_what_agrees_and_what_does_not(shown: str, came: list[str], whole: bool, agree: bool) -> None:
    assert agrees(shown, came, whole=whole) == agree


@pytest.mark.parametrize(
    "chapter",
    [
        "```sh\necho one\n```\n```text\ntwo\n```\n",
        "```sh\necho unseen\n```\n",
        "```sh\nfalse\ntrue\n```\n",
        "```sh fails\ntrue\n```\n",
        "```sh\nread <&1\n```\n",
        "```sh second\nexit\n```\n```text second\nready\n```\n",
    ],
    ids=["another output", "an output that is not shown", "a wrong command", "no failure", "no end", "nothing in time"],
)
def test_a_text_that_is_wrong_is_found(chapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tutorial, "PATIENCE", 0.5)
    monkeypatch.setattr(tutorial, "SETTLED", 0.1)
    reader = Reader(tmp_path, tmp_path / "scratch", commands.environment())
    with closing(reader), pytest.raises(AssertionError, match=r"tutorial\.md:\d+: "):
        reader.follow(blocks("Wrong", f"\n## Wrong\n{chapter}"))


# -- what of the cluster's part is not typed: tests/controller/test_image.py does the rest -------------------------------------


def test_the_commands_that_take_docker_are_targets() -> None:
    makefile = (commands.ROOT / "Makefile").read_text("utf-8")
    typed = {block.text.strip() for block in blocks(tutorial_cluster.CHAPTER) if block.kind == "sh"}
    assert typed >= tutorial_cluster.ELSEWHERE
    for command in tutorial_cluster.ELSEWHERE:
        assert f"\n{command.removeprefix('make ')}: " in makefile
    last = makefile.split("\nkind-up: ")[1].partition("\n\n")[0].splitlines()[-1]
    assert "wait --for=condition=Ready" in last, "what it shows at its end"
    assert "workflow/welcome" in last
    assert f"--context {tutorial_cluster.CONTEXT}\n" in makefile


@pytest.mark.skipif(manifests.kubectl() is None, reason="no kubectl, whose kustomize renders the manifests")
def test_the_gateway_is_reached_as_it_says() -> None:
    text = " ".join(TEXT.read_text("utf-8").split())
    assert "the gateway is a NodePort, 30080, which kind hands to port 8080 of your machine" in text
    (node, *_) = yaml.safe_load((commands.ROOT / "kind-config.yaml").read_text("utf-8"))["nodes"]
    assert node["extraPortMappings"] == [{"containerPort": 30080, "hostPort": 8080, "listenAddress": "127.0.0.1"}]
    system = manifests.rendered("overlays/kind")
    (port,) = manifests.of(system, "Service")["stepwell-gateway-node"]["spec"]["ports"]
    assert (port["nodePort"], port["targetPort"]) == (30080, "http")
    settings = [
        each["data"] for name, each in manifests.of(system, "ConfigMap").items() if name.startswith("stepwell-config")
    ]
    assert [each["STEPWELL_PUBLIC_URL"] for each in settings] == ["http://127.0.0.1:8080"]
