"""The webhook behind a real API server: what a user of kubectl sees, and that certificates change unnoticed."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import kube_access
import pytest
from kube_access import PROBE, admitting, configure_webhook, connected, free_port, let_operate, refuses
from waiting import eventually

from stepwell.actions.registry import default_actions
from stepwell_operator.admission.certificates import server_context
from stepwell_operator.admission.cluster import KubeConfigurations, KubeWorkflows
from stepwell_operator.admission.server import AdmissionServer, admission_server
from stepwell_operator.admission.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_server import KubeServer

BAD = json.dumps({**PROBE, "metadata": {"name": "bad"}})


@pytest.fixture(scope="module")
def admitted(kube: KubeServer) -> Iterator[KubeServer]:
    """The cluster with the webhook; ``old`` in the namespace legacy is a Workflow that came before it."""
    kube_access.namespace(kube, "legacy")
    kube.kubectl("create", "-n", "legacy", "-f", "-", given=json.dumps({**PROBE, "metadata": {"name": "old"}}))
    with admitting(kube):
        yield kube


def test_every_problem_is_shown_at_apply(admitted: KubeServer) -> None:
    steps = [
        {"name": "a", "needs": ["a"], "fail": {"message": "{{ 1 + }}"}},
        {"name": "b", "transform": {"value": "{{"}},
    ]
    given = json.dumps({**PROBE, "spec": {"steps": steps}})
    for way in (["apply"], ["apply", "--server-side"], ["create"], ["create", "--dry-run=server"]):
        refused = admitted.kubectl(*way, "-f", "-", given=given, check=False)
        assert refused.returncode == 1
        assert 'The Workflow "admission-probe" is invalid: \n' in refused.stderr
        for path in ("spec.steps[0].needs", "spec.steps[0].fail.message", "spec.steps[1].transform.value"):
            assert f"\n* {path}: " in refused.stderr


def test_a_spec_of_almost_200_kib_is_checked(admitted: KubeServer) -> None:
    steps = [{"name": f"s{index}", "transform": {"value": "x" * 900}} for index in range(190)]
    spec = {"steps": [*steps, {"name": "last", "needs": ["last"], "transform": {"value": 1}}]}
    whole = {**PROBE, "metadata": {"name": "large"}, "spec": {"steps": steps}}
    admitted.kubectl("create", "-f", "-", given=json.dumps(whole))
    refused = admitted.kubectl("replace", "-f", "-", given=json.dumps({**whole, "spec": spec}), check=False)
    assert "in a circle" in refused.stderr
    too_large = {"steps": [*steps, *({"name": f"t{i}", "transform": {"value": "x" * 4000}} for i in range(9))]}
    refused = admitted.kubectl("replace", "-f", "-", given=json.dumps({**whole, "spec": too_large}), check=False)
    assert "bytes as JSON; at most 204,800 are allowed" in refused.stderr


def test_what_was_wrong_before_can_be_labelled_and_deleted_but_not_edited(admitted: KubeServer) -> None:
    admitted.kubectl("label", "swf", "old", "team=x", namespace="legacy")
    patch = json.dumps({"spec": {"suspend": True}})
    refused = admitted.kubectl("patch", "swf", "old", "--type=merge", "-p", patch, namespace="legacy", check=False)
    assert 'The Workflow "old" is invalid: spec.steps[0].needs: ' in refused.stderr
    admitted.kubectl("delete", "swf", "old", namespace="legacy")


def test_a_credential_in_plain_sight_is_warned_about(admitted: KubeServer) -> None:
    call = {"url": "https://x.example/", "headers": {"Authorization": "Bearer hunter2-hunter2"}}
    given = {**PROBE, "metadata": {"name": "plain"}, "spec": {"steps": [{"name": "a", "httpCall": call}]}}
    done = admitted.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(given))
    assert "Warning: spec.steps[0].httpCall.headers.Authorization: seems to hold a credential" in done.stderr
    assert "hunter2" not in done.stderr


def test_a_run_is_refused_where_its_input_does_not_fit(admitted: KubeServer) -> None:
    schema = {"type": "object", "required": ["email"], "properties": {"email": {"type": "string"}}}
    spec = {"inputSchema": schema, "steps": [{"name": "a", "transform": {"select": ["email"]}}]}
    admitted.kubectl("create", "-f", "-", given=json.dumps({**PROBE, "metadata": {"name": "welcome"}, "spec": spec}))

    def start(workflow: str, **given: object) -> str:
        run = {"apiVersion": PROBE["apiVersion"], "kind": "WorkflowRun", "metadata": {"generateName": "r-"}}
        body = {**run, "spec": {"workflowRef": {"name": workflow}, "input": given}}
        return admitted.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(body), check=False).stderr

    assert start("welcome", email="a@b.c") == ""
    assert "is invalid: spec.input.email: 5 is not of type" in start("welcome", email=5)
    assert "Warning: spec.workflowRef.name: there is no Workflow nobody in namespace default" in start("nobody")


async def test_certificates_change_unnoticed(kube: KubeServer) -> None:
    let_operate(kube)
    context, port = server_context(), free_port()
    started = now = datetime.now(UTC) - timedelta(hours=2)
    configure_webhook(kube, port)
    async with connected(kube, "operator") as api:
        trust = Trust(KubeConfigurations(api, "stepwell"), context, timedelta(hours=3), lambda: now)
        server = AdmissionServer(default_actions(), KubeWorkflows(api))
        async with admission_server(server, context, "127.0.0.1", port):
            await trust.step()
            first = trust.current
            await eventually(lambda: asyncio.to_thread(refuses, kube), 30)
            now = started + timedelta(hours=2)
            await trust.step()
            assert trust.successor is not None, "both are trusted now"
            for _ in range(4):
                assert await asyncio.to_thread(refuses, kube)
            now += trust.pause
            await trust.step()
            assert trust.current is not first
            for _ in range(4):
                assert await asyncio.to_thread(refuses, kube)
        done = await asyncio.to_thread(kube.kubectl, "create", "--dry-run=server", "-f", "-", given=BAD)
        assert done.returncode == 0, "while the operator is away nobody is held up"
    kube.kubectl("delete", "validatingwebhookconfiguration", "stepwell")
