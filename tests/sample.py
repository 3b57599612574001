"""The sample of deploy/overlays/kind/samples, started the two ways that users have, and what must come of it."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import subprocess
from collections.abc import Callable
from typing import Any, TypeAlias

import httpx
from waiting import eventually_sync

NAMESPACE = "stepwell-samples"
SECRET = "It's a Secret to Everybody"
HOOK = f"/hooks/{NAMESPACE}/welcome/signup"
ADDRESS = {"email": "user@example.com"}
Kubectl: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]
PATIENCE = 60.0  #: seconds


def ready(kubectl: Kubectl) -> str:
    """The address of the webhook, once the operator has synced the Workflow."""
    kubectl("wait", "-n", NAMESPACE, "workflow/welcome", "--for=condition=Ready", f"--timeout={PATIENCE:g}s")
    found = json.loads(kubectl("get", "-n", NAMESPACE, "workflow/welcome", "-o", "json").stdout)
    (trigger,) = found["status"]["triggers"]
    return str(trigger["url"])


def through_kubectl(kubectl: Kubectl) -> dict[str, Any]:
    """Start it by a WorkflowRun; its status when it has ended."""
    name = f"welcome-{secrets.token_hex(4)}"
    spec = {"workflowRef": {"name": "welcome"}, "input": ADDRESS | {"age": 20}}
    meta = {"name": name, "namespace": NAMESPACE}
    manifest = {"apiVersion": "stepwell.dev/v1alpha1", "kind": "WorkflowRun", "metadata": meta, "spec": spec}
    kubectl("create", "-f", "-", given=json.dumps(manifest))
    kubectl("wait", "-n", NAMESPACE, f"swr/{name}", "--for=condition=Finished", f"--timeout={PATIENCE:g}s")
    status: dict[str, Any] = json.loads(kubectl("get", "-n", NAMESPACE, f"swr/{name}", "-o", "json").stdout)["status"]
    assert status["phase"] == "Succeeded", status
    assert status["output"] == {"received": ADDRESS}, status
    assert [(each["name"], each["status"]) for each in status["steps"]] == [
        ("pick", "Succeeded"),
        ("notify", "Succeeded"),
    ]
    return status


def deliver(gateway: str, delivery: str, *, secret: str = SECRET) -> httpx.Response:
    """Post as GitHub would."""
    body = json.dumps({"user": ADDRESS | {"age": 20}}).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "user",
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={signature}",
    }
    return httpx.post(f"{gateway}{HOOK}", content=body, headers=headers, timeout=10)


def through_webhook(gateway: str) -> str:
    """Start it by a signed delivery, twice the same; the run's id. A wrong signature starts none."""
    assert deliver(gateway, "wrong", secret="guessed").status_code == 401
    delivery = secrets.token_hex(8)

    def accepted() -> httpx.Response | None:
        answer = deliver(gateway, delivery)
        return answer if answer.status_code == 202 else None

    run = str(eventually_sync(accepted, PATIENCE).json()["runId"])
    again = deliver(gateway, delivery)
    assert (again.status_code, again.json()["runId"]) == (200, run)
    return run
