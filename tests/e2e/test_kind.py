"""The sample in the cluster of `make kind-up`: by kubectl and by a webhook, through the network as users reach it.

`make e2e` fails where there is none; in the default run it is skipped then. Without Docker, tests/controller/test_image.py does the same with processes for pods.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import httpx
import pytest
import sample
from waiting import eventually_sync

CONTEXT = "kind-stepwell"
GATEWAY = "http://127.0.0.1:8080"  # kind-config.yaml


def _missing() -> str:
    """Why there is no cluster to test; empty: there is one."""
    for program in ("docker", "kind", "kubectl"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    docker = subprocess.run(["docker", "info"], capture_output=True, check=False)
    if docker.returncode:
        return "no Docker engine answers"
    clusters = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True, check=False).stdout
    return "" if "stepwell" in clusters.split() else "no cluster `stepwell`; `make kind-up` makes it"


MISSING = _missing()
if MISSING and os.environ.get("STEPWELL_E2E"):
    pytest.exit(f"the kind cluster is needed: {MISSING}", returncode=1)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the kind cluster: {MISSING}")


def kubectl(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", "--context", CONTEXT, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done


def query(statement: str) -> list[str]:
    """Lines of a query's answer, by psql in PostgreSQL's pod."""
    command = ["exec", "-n", "stepwell-system", "postgres-0", "--", "psql", "-U", "stepwell", "-Atc", statement]
    return kubectl(*command).stdout.split()


def test_the_address_in_the_status_is_the_one_that_answers() -> None:
    assert sample.ready(kubectl) == f"{GATEWAY}{sample.HOOK}"


def test_a_workflow_run_runs_the_sample() -> None:
    status = sample.through_kubectl(kubectl)
    assert query(f"SELECT status FROM workflow_runs WHERE id = '{status['runId']}'") == ["succeeded"]


def test_a_webhook_runs_the_sample() -> None:
    run = sample.through_webhook(GATEWAY)
    statement = f"SELECT status FROM workflow_runs WHERE id = '{run}'"
    eventually_sync(lambda: query(statement) == ["succeeded"], sample.PATIENCE)


def test_metrics_are_not_reached_from_outside() -> None:
    assert httpx.get(f"{GATEWAY}/metrics").status_code == 404


def test_a_killed_worker_loses_nothing() -> None:
    kubectl("delete", "pod", "-n", "stepwell-system", "-l", "app.kubernetes.io/component=worker", "--wait=false")
    run = sample.through_webhook(GATEWAY)
    statement = f"SELECT status FROM workflow_runs WHERE id = '{run}'"
    eventually_sync(lambda: query(statement) == ["succeeded"], 180)


def test_every_pod_is_restricted_and_ready() -> None:
    eventually_sync(lambda: len(_pods()) >= 6 and all(map(_ready, _pods())), sample.PATIENCE, pause=1)
    for pod in _pods():
        contexts = [each["securityContext"] for each in pod["spec"]["containers"]]
        assert all(each["readOnlyRootFilesystem"] for each in contexts), pod["metadata"]["name"]


def _pods() -> list[dict[str, Any]]:
    """Those that stay."""
    found = json.loads(kubectl("get", "pods", "-n", "stepwell-system", "-o", "json").stdout)["items"]
    return [each for each in found if "deletionTimestamp" not in each["metadata"]]


def _ready(pod: dict[str, Any]) -> bool:
    return {"type": "Ready", "status": "True"} in [
        {name: each[name] for name in ("type", "status")} for each in pod["status"].get("conditions", ())
    ]
