"""What docs/tutorial.md needs for its cluster, where that is a real API server with pods as processes."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import commands
import kube_access
from tutorial import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_server import KubeServer
    from pods import Pod

CHAPTER = "In a cluster"
ELSEWHERE = frozenset({"make install", "make kind-up", "make kind-down"})  #: they take Docker, or a minute
CONTEXT = "kind-stepwell"
KUBECTL = """#!/bin/sh
if [ "$1" = logs ]; then exec cat {log}; fi
exec {kubectl} "$@"
"""


@contextmanager
def reader(kube: KubeServer, directory: Path, pods: dict[str, Pod]) -> Iterator[Reader]:
    """One who stands in a clone in which `make install` and `make kind-up` were done.

    There is no kubelet: `kubectl logs` prints the log of the worker's process. Nor are there controllers: what the role `edit`
    would gather is put into it.
    """
    clone = directory / "stepwell"
    (clone / ".venv").mkdir(parents=True)
    (clone / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (clone / "deploy").symlink_to(commands.ROOT / "deploy")
    ports = {"8080": pods["gateway"].ports["http"], "8099": pods["receiver"].ports["http"]}
    instead = {there: str(here) for there, here in ports.items()}
    made = Reader(clone, directory / "scratch", _environment(kube, directory, pods["worker"]), instead, ELSEWHERE)
    try:
        with _aggregated(kube):
            yield made
    finally:
        made.close()


def _environment(kube: KubeServer, directory: Path, worker: Pod) -> dict[str, str]:
    programs = directory / "programs"
    programs.mkdir()
    (programs / "kubectl").write_text(KUBECTL.format(log=worker.log, kubectl=kube.kubectl_path))
    (programs / "kubectl").chmod(0o755)
    config = directory / "kubeconfig"
    config.write_text(kube.kubeconfig.read_text().replace("tests", CONTEXT))
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return commands.environment(HOME=str(directory), TERM="xterm", PATH=path, KUBECONFIG=str(config))


@contextmanager
def _aggregated(kube: KubeServer) -> Iterator[None]:
    label = "rbac.authorization.k8s.io/aggregate-to-edit"
    roles = kube_access.documents("roles-aggregated.yaml")
    rules = [rule for each in roles if label in each["metadata"]["labels"] for rule in each["rules"]]
    kube.kubectl("patch", "clusterrole", "edit", "--type=merge", "-p", json.dumps({"rules": rules}))
    try:
        yield
    finally:
        kube.kubectl("patch", "clusterrole", "edit", "--type=merge", "-p", '{"rules": []}')
