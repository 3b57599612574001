"""docs/tutorial.md, the part with a cluster: its commands as they stand, on a real API server, with the pods as processes.

Not done here is what takes Docker: making and removing the cluster. Nor is there a kubelet: `kubectl logs` prints a process's log.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import commands
import image_build
import kube_access
import manifests
import pod_system
import pytest
import sandbox
import yaml
from kube_access import configure_webhook, free_port, refuses
from tutorial import TEXT, Reader, blocks
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_server import KubeServer
    from pods import Pod

pytestmark = pytest.mark.skipif(manifests.kubectl() is None, reason="no kubectl, whose kustomize renders the manifests")
CHAPTER = "In a cluster"
ELSEWHERE = frozenset({"make install", "make kind-up", "make kind-down"})
CONTEXT = "kind-stepwell"
KUBECTL = """#!/bin/sh
if [ "$1" = logs ]; then exec cat {log}; fi
exec {kubectl} "$@"
"""


@pytest.fixture
def controllers(kube: KubeServer) -> Iterator[None]:
    """What the controller of aggregated roles does, which does not run here."""
    labelled = "rbac.authorization.k8s.io/aggregate-to-edit"
    roles = kube_access.documents("roles-aggregated.yaml")
    rules = [rule for each in roles if labelled in each["metadata"]["labels"] for rule in each["rules"]]
    kube.kubectl("patch", "clusterrole", "edit", "--type=merge", "-p", json.dumps({"rules": rules}))
    yield
    kube.kubectl("patch", "clusterrole", "edit", "--type=merge", "-p", '{"rules": []}')


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a clone is after `make install`."""
    folder = tmp_path / "stepwell"
    (folder / ".venv").mkdir(parents=True)
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (folder / "deploy").symlink_to(commands.ROOT / "deploy")
    return folder


@pytest.fixture
def admission(kube: KubeServer) -> Iterator[int]:
    """The port where API servers ask whether a Workflow is sound."""
    port = free_port()
    configure_webhook(kube, port)
    yield port
    kube.kubectl("delete", "validatingwebhookconfiguration", "stepwell")


@pytest.mark.skipif(bool(sandbox.missing()), reason=f"no sandbox: {sandbox.missing()}")
@pytest.mark.deadline(180)
@pytest.mark.usefixtures("controllers")
async def test_it_is_as_the_text_says(
    kube: KubeServer, admission: int, empty_database: str, redis_url: str, clone: Path, tmp_path: Path
) -> None:
    image = image_build.build(tmp_path / "build")
    port = str(free_port())
    settings = {
        "operator": {"STEPWELL_ADMISSION_PORT": str(admission), "STEPWELL_PUBLIC_URL": f"http://127.0.0.1:{port}"},
        "gateway": {"PORT": port},
    }
    async with pod_system.pods(image, kube, empty_database, redis_url, tmp_path, settings) as running:
        await eventually(lambda: asyncio.to_thread(refuses, kube), 30, pause=0.1)
        instead = {"8080": port, "8099": str(running["receiver"].ports["http"])}
        environment = _environment(kube, tmp_path, running["worker"])
        reader = Reader(clone, tmp_path / "scratch", environment, instead, ELSEWHERE)
        try:
            await asyncio.to_thread(reader.follow, blocks(CHAPTER))
        finally:
            reader.close()


def _environment(kube: KubeServer, directory: Path, worker: Pod) -> dict[str, str]:
    programs = directory / "programs"
    programs.mkdir()
    (programs / "kubectl").write_text(KUBECTL.format(log=worker.log, kubectl=kube.kubectl_path))
    (programs / "kubectl").chmod(0o755)
    config = directory / "kubeconfig"
    config.write_text(kube.kubeconfig.read_text().replace("tests", CONTEXT))
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return commands.environment(HOME=str(directory), TERM="xterm", PATH=path, KUBECONFIG=str(config))


def test_the_commands_that_take_docker_are_targets() -> None:
    makefile = (commands.ROOT / "Makefile").read_text("utf-8")
    typed = {block.text.strip() for block in blocks(CHAPTER) if block.kind == "sh"}
    assert typed >= ELSEWHERE
    for command in ELSEWHERE:
        assert f"\n{command.removeprefix('make ')}: " in makefile
    last = makefile.split("\nkind-up: ")[1].partition("\n\n")[0].splitlines()[-1]
    assert "wait --for=condition=Ready" in last, "what it shows at its end"
    assert "workflow/welcome" in last
    assert f"--context {CONTEXT}\n" in makefile


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
