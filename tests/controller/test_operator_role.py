"""The operator, all of it, with no right but those of the ClusterRole that it is shipped with: nothing it does is refused."""

from __future__ import annotations

import dataclasses
import json
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import operating
import pytest
from kube_access import PROBE, configure_webhook, free_port, let_operate, refuses
from waiting import eventually_sync

from stepwell.settings import AdmissionSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lending
    from kube_server import KubeServer

WORKFLOW: dict[str, Any] = {
    "apiVersion": "stepwell.dev/v1alpha1",
    "kind": "Workflow",
    "metadata": {"name": "least"},
    "spec": {"steps": [{"name": "a", "transform": {"value": 1}}]},
}
RUN: dict[str, Any] = {
    "apiVersion": "stepwell.dev/v1alpha1",
    "kind": "WorkflowRun",
    "metadata": {"name": "least-1"},
    "spec": {"workflowRef": {"name": "least"}},
}
REFUSED = re.compile(r'^authorization_attempts_total\{result="(?:denied|no-opinion)"\} (\S+)$', re.MULTILINE)


def refusals(kube: KubeServer) -> float:
    """How many requests the API server refused since its start, of whomever."""
    return sum(map(float, REFUSED.findall(kube.kubectl("get", "--raw", "/metrics").stdout)))


def apply(kube: KubeServer, document: dict[str, Any]) -> None:
    kube.kubectl("apply", "--server-side", "-f", "-", given=json.dumps(document))


def wait(kube: KubeServer, what: str, condition: str) -> None:
    kube.kubectl("wait", f"--for={condition}", what, "--timeout=60s")


def events_of(kube: KubeServer) -> set[str]:
    """The names of the objects that there are Events about."""
    found = json.loads(kube.kubectl("get", "events", "-o", "json").stdout)["items"]
    return {event["involvedObject"]["name"] for event in found}


@pytest.fixture
def operated(kube: KubeServer, databases: lending.Databases, valkey_server: str) -> Iterator[KubeServer]:
    """An operator with the rights that it is shipped with, the webhook included, and a worker."""
    let_operate(kube)
    port = free_port()
    configure_webhook(kube, port)
    with databases.lent() as dsn:
        settings = operating.settings_for(dsn, valkey_server, "role")
        admission = AdmissionSettings(port=port, address="127.0.0.1")
        settings = dataclasses.replace(settings, operator=dataclasses.replace(settings.operator, admission=admission))
        account: Any = SimpleNamespace(kubeconfig=kube.user("operator"))
        with operating.worker(settings), operating.operator(account, settings):
            yield kube
    kube.kubectl("delete", "validatingwebhookconfiguration", "stepwell")


def test_a_refusal_is_counted(kube: KubeServer) -> None:
    before = refusals(kube)
    kube.kubectl("get", "pods", user="operator", check=False)
    assert refusals(kube) > before


def test_the_shipped_role_is_enough(operated: KubeServer, caplog: pytest.LogCaptureFixture) -> None:
    kube = operated
    eventually_sync(lambda: refuses(kube), 30)
    before = refusals(kube)
    apply(kube, WORKFLOW)
    wait(kube, "swf/least", "condition=Ready")
    apply(kube, {**WORKFLOW, "spec": {**WORKFLOW["spec"], "suspend": True}})
    wait(kube, "swf/least", "condition=Suspended")
    apply(kube, WORKFLOW)
    wait(kube, "swf/least", "condition=Suspended=False")
    kube.kubectl("create", "-f", "-", given=json.dumps(RUN))
    wait(kube, "swr/least-1", "condition=Finished")
    kube.kubectl("patch", "swr", "least-1", "--type=merge", "-p", '{"spec":{"ttlAfterFinished":"1s"}}')
    eventually_sync(lambda: not kube.kubectl("get", "swr", "least-1", "--ignore-not-found").stdout, 60)
    kube.kubectl("create", "-f", "-", given=json.dumps({**PROBE, "metadata": {"name": "wrong"}}), check=False)
    eventually_sync(lambda: {"least", "least-1"} <= events_of(kube), 30)
    kube.kubectl("delete", "swf", "least")
    assert refusals(kube) == before
    assert [record.getMessage() for record in caplog.records if "orbidden" in record.getMessage()] == []
