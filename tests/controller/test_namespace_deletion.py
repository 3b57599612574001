"""A namespace with Workflows and runs goes away while no operator is there; the next one clears up after it.

This server has no namespace controller, so the test does what that one does: mark the namespace, delete what is in it, and
finalize it. A finalizer on any object of ours would leave the object there, and the namespace with it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, LiteralString

import operating
import psycopg
from kube_api import GROUP
from waiting import eventually_sync

if TYPE_CHECKING:
    from kube_api import Api
    from kube_server import KubeServer

NAMESPACE = "goes-away"
SPEC = {"steps": [{"name": "pick", "transform": {"value": "{{ input }}"}}]}


def test_a_namespace_goes_without_the_operator(kube: KubeServer, api: Api, database: str, valkey_server: str) -> None:
    def rows(query: LiteralString) -> list[tuple[Any, ...]]:
        with psycopg.connect(database, autocommit=True) as connection:
            return connection.execute(query).fetchall()

    settings = operating.settings_for(database, valkey_server, "namespaces")
    kube.kubectl("create", "namespace", NAMESPACE)
    api.create("left", SPEC)
    api.create("gone", SPEC, NAMESPACE)
    run = {"apiVersion": "stepwell.dev/v1alpha1", "kind": "WorkflowRun", "metadata": {"name": "running"},
           "spec": {"workflowRef": {"name": "gone"}}}  # fmt: skip
    api.call("POST", f"{GROUP}/namespaces/{NAMESPACE}/workflowruns", run)
    with operating.operator(kube, settings):
        eventually_sync(lambda: api.ready("gone", NAMESPACE) == ("True", "Synced"), 30)
        eventually_sync(lambda: api.ready("left") == ("True", "Synced"), 30)
        eventually_sync(lambda: rows("SELECT status FROM runs") == [("queued",)], 30)
    delete_namespace(kube)
    assert rows("SELECT status FROM runs") == [("queued",)], "nobody was there to hear of it"
    with operating.operator(kube, settings):
        eventually_sync(lambda: rows("SELECT name FROM workflows WHERE deleted_at IS NULL") == [("left",)], 30)
        eventually_sync(lambda: rows("SELECT status FROM runs") == [("cancelled",)], 30)
        assert api.ready("left") == ("True", "Synced")


def delete_namespace(kube: KubeServer) -> None:
    """As the namespace controller does it."""
    kube.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    refused = kube.kubectl("create", "-n", NAMESPACE, "-f", "-", check=False, given=json.dumps(
        {"apiVersion": "stepwell.dev/v1alpha1", "kind": "Workflow", "metadata": {"name": "late"}, "spec": SPEC}))  # fmt: skip
    assert "being terminated" in refused.stderr
    for kind in ("workflows", "workflowruns"):
        kube.kubectl("delete", f"{kind}.stepwell.dev", "--all", "--wait=false", namespace=NAMESPACE)
        left = kube.kubectl("get", f"{kind}.stepwell.dev", "-o", "name", namespace=NAMESPACE).stdout
        assert left == "", f"a finalizer holds {left}"
    found = json.loads(kube.kubectl("get", "namespace", NAMESPACE, "-o", "json").stdout)
    found["spec"]["finalizers"] = []
    kube.kubectl("replace", "--raw", f"/api/v1/namespaces/{NAMESPACE}/finalize", "-f", "-", given=json.dumps(found))
    assert kube.kubectl("get", "namespace", NAMESPACE, check=False).returncode != 0
