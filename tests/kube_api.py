"""Workflow objects over HTTP: the same calls to a real API server and to the fake."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kube_server import KubeServer

GROUP = "/apis/stepwell.dev/v1alpha1"
TOO_MANY = 429
MERGE = {"Content-Type": "application/merge-patch+json"}


@dataclass
class Api:
    """An API server as its administrator sees it; ``kubeconfig`` is for processes."""

    url: str
    kubeconfig: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    verify: ssl.SSLContext | bool = False
    real: bool = True

    def __post_init__(self) -> None:
        self._client = httpx.Client(base_url=self.url, headers=dict(self.headers), verify=self.verify, timeout=30)

    def close(self) -> None:
        self._client.close()

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """The answer's JSON; fails for any status from 400 on. 429 is asked again: a kind's storage is made when first used."""
        deadline = time.monotonic() + 30
        while (answer := self._client.request(method, path, json=body, headers=headers)).status_code == TOO_MANY:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.1)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def create(self, name: str, spec: Any, namespace: str = "default", **annotations: str) -> dict[str, Any]:
        """Create a Workflow; keywords are annotations of `stepwell.dev`, with `_` for `-`."""
        metadata: dict[str, Any] = {"name": name, "namespace": namespace}
        if annotations:
            metadata["annotations"] = {f"stepwell.dev/{k.replace('_', '-')}": v for k, v in annotations.items()}
        body = {"apiVersion": "stepwell.dev/v1alpha1", "kind": "Workflow", "metadata": metadata, "spec": spec}
        return dict(self.call("POST", f"{GROUP}/namespaces/{namespace}/workflows", body))

    def patch(self, name: str, patch: Any, namespace: str = "default") -> dict[str, Any]:
        """Merge into an object."""
        return dict(self.call("PATCH", self._path(name, namespace), patch, MERGE))

    def get(self, name: str, namespace: str = "default") -> dict[str, Any]:
        return dict(self.call("GET", self._path(name, namespace)))

    def delete(self, name: str, namespace: str = "default") -> None:
        self.call("DELETE", self._path(name, namespace))

    def all(self) -> list[dict[str, Any]]:
        return list(self.call("GET", f"{GROUP}/workflows")["items"] or [])

    def versions(self) -> dict[str, str]:
        """The resource version of every Workflow, by uid."""
        return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in self.all()}

    def status(self, name: str, namespace: str = "default") -> dict[str, Any]:
        return dict(self.get(name, namespace).get("status") or {})

    def ready(self, name: str, namespace: str = "default") -> tuple[str, str] | None:
        """Status and reason of the condition Ready, of the present generation; None: not yet."""
        found = self.get(name, namespace)
        status = found.get("status") or {}
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return None
        return condition(status, "Ready")

    def events(self, name: str, namespace: str = "default") -> list[tuple[str, str, str]]:
        """Type, reason and message of an object's Events, in their order."""
        items = self.call("GET", f"/api/v1/namespaces/{namespace}/events")["items"] or []
        mine = sorted((i for i in items if i["involvedObject"]["name"] == name), key=lambda i: i["metadata"]["name"])
        return [(item["type"], item["reason"], item["message"]) for item in mine]

    def clear(self) -> None:
        """Delete every Workflow and WorkflowRun."""
        for kind in ("workflows", "workflowruns"):
            for item in self.call("GET", f"{GROUP}/{kind}")["items"] or []:
                name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
                self.call("DELETE", f"{GROUP}/namespaces/{namespace}/{kind}/{name}")

    def _path(self, name: str, namespace: str) -> str:
        return f"{GROUP}/namespaces/{namespace}/workflows/{name}"


def condition(status: Mapping[str, Any], kind: str) -> tuple[str, str] | None:
    """Status and reason of a condition."""
    return next(((c["status"], c["reason"]) for c in status.get("conditions") or () if c["type"] == kind), None)


def of_server(kube: KubeServer) -> Api:
    """The real one."""
    trust = ssl.create_default_context(cafile=str(kube.authority))
    return Api(kube.url, kube.kubeconfig, {"Authorization": f"Bearer {kube.token('admin')}"}, trust)
