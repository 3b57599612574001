"""`make kind-up` without Docker: `docker` and `kind` write down what they are asked, kubectl talks to a real API server, and the
test says what kubelet, controllers and operator would say there, so that each wait ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kube_api
import kube_server
import pytest
import yaml
from kube_access import SYSTEM
from sample import NAMESPACE as SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_api import Api
    from kube_server import KubeServer

APPS = "/apis/apps/v1"
ADMISSION = "validatingadmissionpolicybinding/stepwell-starts validatingwebhookconfiguration/stepwell"
SHIM = """#!/bin/sh
echo "$(basename "$0") $* attestations=${BUILDX_NO_DEFAULT_ATTESTATIONS:+none}" >> "$CALLS"
if [ "$*" = "get clusters" ] && [ -e "$CALLS.made" ]; then echo stepwell; fi
if [ "$1 $2" = "create cluster" ]; then touch "$CALLS.made"; fi
"""


@pytest.fixture(scope="module")
def machine(kube: KubeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of somebody who has Docker and kind, as far as `make` can see."""
    place = tmp_path_factory.mktemp("machine")
    for name in ("docker", "kind"):
        (place / name).write_text(SHIM)
        (place / name).chmod(0o755)
    config = yaml.safe_load(kube.kubeconfig.read_text())
    config["contexts"] = [{"name": "kind-stepwell", "context": {"cluster": "tests", "user": "admin"}}]
    del config["current-context"]
    (place / "kubeconfig").write_text(yaml.safe_dump(config))
    yield {
        "PATH": f"{place}:{os.defpath}",
        "HOME": str(place),
        "CALLS": str(place / "calls"),
        "KUBECONFIG": str(place / "kubeconfig"),
    }
    kube.kubectl("delete", *ADMISSION.split())
    for namespace in (SYSTEM, SAMPLES):
        kinds = "deployments,statefulsets,services,networkpolicies,poddisruptionbudgets,secrets,configmaps"
        kube.kubectl("delete", "-n", namespace, kinds, "--all", "--wait=false")


class Cluster:
    """What is not there: whatever is applied is reported to be running, and the sample to be synced."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _live(self) -> None:
        while not self._ended.wait(0.1):
            for namespace in (SYSTEM, SAMPLES):
                for kind in ("deployments", "statefulsets"):
                    for each in self._api.call("GET", f"{APPS}/namespaces/{namespace}/{kind}")["items"] or ():
                        self._run(f"{APPS}/namespaces/{namespace}/{kind}/{each['metadata']['name']}", each)
            for each in self._api.all():
                self._sync(each["metadata"])

    def _run(self, path: str, workload: dict[str, Any]) -> None:
        generation, count = workload["metadata"]["generation"], workload["spec"]["replicas"]
        if workload.get("status", {}).get("observedGeneration") != generation:
            counted = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count)
            status = {"observedGeneration": generation, **counted}
            self._api.call("PATCH", f"{path}/status", {"status": status}, kube_api.MERGE)

    def _sync(self, metadata: dict[str, Any]) -> None:
        condition = {
            "type": "Ready",
            "status": "True",
            "reason": "Synced",
            "message": "",
            "lastTransitionTime": metadata["creationTimestamp"],
        }
        status = {"observedGeneration": metadata["generation"], "conditions": [condition]}
        path = f"{kube_api.GROUP}/namespaces/{metadata['namespace']}/workflows/{metadata['name']}/status"
        self._api.call("PATCH", path, {"status": status}, kube_api.MERGE)


def make(kube: KubeServer, environment: dict[str, str], recipe: str) -> subprocess.CompletedProcess[str]:
    """`make kind-up`, by a Makefile's text."""
    command = ["make", "--no-print-directory", f"KUBECTL={kube.kubectl_path}", "-f-", "kind-up"]
    return subprocess.run(
        command,
        cwd=kube_server.ROOT,
        env=environment,
        input=recipe,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def calls(environment: dict[str, str]) -> list[str]:
    """What docker and kind were asked since the last time."""
    file = Path(environment["CALLS"])
    found = file.read_text().splitlines()
    file.write_text("")
    return found


def test_a_cluster_is_made_filled_and_waited_for_and_the_next_time_renewed(
    kube: KubeServer, machine: dict[str, str]
) -> None:
    recipe = (kube_server.ROOT / "Makefile").read_text()
    with closing(kube_api.of_server(kube)) as api:
        with Cluster(api):
            made = make(kube, machine, recipe)
        assert made.returncode == 0, made.stdout + made.stderr
        clusters, created, built, loaded = calls(machine)
        assert (clusters, loaded) == (
            "kind get clusters attestations=",
            "kind load docker-image --name stepwell stepwell:kind attestations=",
        )
        assert created.startswith("kind create cluster --config kind-config.yaml")
        assert built.startswith("docker build ")
        assert built.endswith(" --tag stepwell:kind . attestations=none"), "kind cannot load an index"
        before = _templates(api)

        # again, where nobody runs what is asked for
        impatient = recipe.replace("--timeout=300s", "--timeout=100ms")
        assert impatient != recipe
        failed = make(kube, machine, impatient)
        assert [each.split()[1] for each in calls(machine)] == ["get", "build", "load"], "the cluster stays"
        changed = {name for name, template in _templates(api).items() if template != before[name]}
        assert changed == {"stepwell-operator", "stepwell-gateway", "stepwell-worker"}, (
            "what runs the image starts anew"
        )
        assert (failed.returncode, failed.stderr.count("timed out waiting")) == (2, 3)
        assert "No resources found" in failed.stderr, "pods and warnings are asked for"
        assert "receiver" not in failed.stdout, "nothing is applied after it"


def _templates(api: Api) -> dict[str, Any]:
    found = api.call("GET", f"{APPS}/namespaces/{SYSTEM}/deployments")["items"]
    return {each["metadata"]["name"]: json.dumps(each["spec"]["template"], sort_keys=True) for each in found}
