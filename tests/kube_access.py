"""Who may do what in the tests' cluster: the shipped roles, bound to its users, and the webhook within this process."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import uvloop
import yaml
from kubernetes.aio import client
from waiting import eventually_sync

from stepwell.actions.registry import default_actions
from stepwell.settings import AdmissionSettings
from stepwell_operator.admission.room import webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from kube_server import KubeServer

BASE = Path(__file__).parents[1] / "deploy" / "base"
SYSTEM = "stepwell-system"
GROUP = "stepwell.dev"


def documents(*names: str) -> list[dict[str, Any]]:
    """The documents of files of deploy/base; of all, without names."""
    files = [BASE / name for name in names] or sorted(set(BASE.glob("*.yaml")) - {BASE / "kustomization.yaml"})
    return [document for file in files for document in yaml.safe_load_all(file.read_text("utf-8")) if document]


def namespace(kube: KubeServer, name: str) -> str:
    """A namespace, made where it is missing."""
    kube.kubectl("create", "namespace", name, check=False)
    return name


def bind(kube: KubeServer, user: str, *roles: str, namespace: str | None = None) -> None:
    """Give a user ClusterRoles: in a namespace, or everywhere."""
    for role in roles:
        kind = "ClusterRoleBinding" if namespace is None else "RoleBinding"
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": f"tests-{user}-{role}", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }
        kube.kubectl("apply", "--server-side", "-f", "-", given=json.dumps(binding))


def let_operate(kube: KubeServer) -> None:
    """Give the user `operator` the role that the operator is shipped with."""
    namespace(kube, SYSTEM)
    kube.apply(BASE / "rbac-operator.yaml")
    bind(kube, "operator", "stepwell-operator")


class Access:
    """Asks the API server what somebody may do."""

    def __init__(self, kube: KubeServer) -> None:
        self._http = httpx.Client(
            base_url=kube.url,
            verify=ssl.create_default_context(cafile=str(kube.authority)),
            headers={"Authorization": f"Bearer {kube.token('admin')}"},
        )

    def __call__(self, user: str, verb: str, resource: str, namespace: str = "", name: str = "") -> bool:
        """Whether a user may; ``resource`` is ``[group:]plural[/subresource]``, the group stepwell.dev without one."""
        group, _, plural = resource.rpartition(":") if ":" in resource else (GROUP, "", resource)
        plural, _, subresource = plural.partition("/")
        attributes = {
            "verb": verb,
            "group": "" if group == "core" else group,
            "resource": plural,
            "subresource": subresource,
            "namespace": namespace,
            "name": name,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": ["system:authenticated"], "resourceAttributes": attributes},
        }
        answer = self._http.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json=review)
        return bool(answer.raise_for_status().json()["status"]["allowed"])

    def close(self) -> None:
        self._http.close()


@asynccontextmanager
async def connected(kube: KubeServer, user: str) -> AsyncIterator[client.ApiClient]:
    """A client of a user."""
    configuration = client.Configuration(host=kube.url)
    configuration.ssl_ca_cert = str(kube.authority)
    configuration.api_key = {"BearerToken": f"Bearer {kube.token(user)}"}
    async with client.ApiClient(configuration) as api:
        yield api


def configure_webhook(kube: KubeServer, port: int) -> None:
    """Apply the shipped configuration, for a server on this machine instead of behind a Service."""
    (configuration,) = [each for each in documents("webhook.yaml") if each["kind"] == "ValidatingWebhookConfiguration"]
    for each in configuration["webhooks"]:
        path = each["clientConfig"].pop("service")["path"]
        each["clientConfig"]["url"] = f"https://127.0.0.1:{port}{path}"
    kube.kubectl("apply", "--server-side", "-f", "-", given=json.dumps(configuration))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def admitting(kube: KubeServer, user: str = "operator") -> Iterator[None]:
    """The webhook in a thread of its own, working as a user; the block begins when API servers ask it."""
    let_operate(kube)
    port = free_port()
    configure_webhook(kube, port)
    ending, loop = asyncio.Event(), uvloop.new_event_loop()
    failed: list[BaseException] = []

    async def serve() -> None:
        settings = AdmissionSettings(port=port, address="127.0.0.1")
        async with (
            connected(kube, user) as api,
            webhook(settings, api, default_actions(), lambda name, work: loop.create_task(work, name=name)),
        ):
            await ending.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as exc:
            failed.append(exc)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="admission")
    thread.start()
    try:
        eventually_sync(lambda: failed or refuses(kube), 30)
        yield
    finally:
        if not failed:
            loop.call_soon_threadsafe(ending.set)
        thread.join()
        kube.kubectl("delete", "validatingwebhookconfiguration", "stepwell", "--ignore-not-found")
    assert not failed, failed


PROBE = {
    "apiVersion": "stepwell.dev/v1alpha1",
    "kind": "Workflow",
    "metadata": {"name": "admission-probe"},
    "spec": {"steps": [{"name": "a", "needs": ["a"], "transform": {"value": 1}}]},
}
"""What only the webhook refuses."""


def refuses(kube: KubeServer) -> bool:
    """Whether the webhook is asked and answers."""
    done = kube.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(PROBE), check=False)
    return "in a circle" in done.stderr
