"""Who may do what, as a real API server decides it: the shipped roles, the policy for starts, and what `stepwell rbac` prints."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import kube_access
import pytest
from commands import within
from kube_access import BASE, Access, bind, documents
from manifests import rendered
from waiting import eventually_sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kube_server import KubeServer

HERE, ELSEWHERE = "rbac-here", "rbac-elsewhere"
ROLES = ("view", "edit", "admin")
PROCESSES = ("operator", "gateway", "worker")


@pytest.fixture(scope="module")
def base(kube: KubeServer) -> Iterator[KubeServer]:
    """A cluster with deploy/base, as `kubectl apply -k` would have it; taken away again."""
    for name in (kube_access.SYSTEM, HERE, ELSEWHERE):
        kube_access.namespace(kube, name)
    parts = [json.dumps(part) for part in rendered("base") if part["kind"] != "CustomResourceDefinition"]
    kube.kubectl("apply", "--server-side", "-f", "-", given="\n---\n".join(parts))
    for process in PROCESSES:
        bind(kube, process, f"stepwell-{process}")
    for role in ROLES:
        bind(kube, role, *aggregated(role), namespace=HERE)
    yield kube
    kube.kubectl("delete", "-f", str(BASE / "admission-policy.yaml"), "-f", str(BASE / "webhook.yaml"))


@pytest.fixture(scope="module")
def may(base: KubeServer) -> Iterator[Access]:
    access = Access(base)
    yield access
    access.close()


def aggregated(role: str) -> list[str]:
    """The ClusterRoles that Kubernetes' own role gathers (its controller does it, which does not run here)."""
    label = f"rbac.authorization.k8s.io/aggregate-to-{role}"
    roles = documents("roles-aggregated.yaml")
    return [each["metadata"]["name"] for each in roles if each["metadata"]["labels"].get(label) == "true"]


# The least of the roles that may; what one may, the next may too.
TABLE = {
    ("get", "workflows"): "view",
    ("list", "workflows"): "view",
    ("watch", "workflows"): "view",
    ("create", "workflows"): "edit",
    ("update", "workflows"): "edit",
    ("patch", "workflows"): "edit",
    ("delete", "workflows"): "edit",
    ("deletecollection", "workflows"): "edit",
    ("get", "workflowruns"): "view",
    ("list", "workflowruns"): "view",
    ("watch", "workflowruns"): "view",
    ("create", "workflowruns"): "edit",
    ("update", "workflowruns"): "edit",
    ("patch", "workflowruns"): "edit",
    ("delete", "workflowruns"): "edit",
    ("get", "workflows/runs"): "view",
    ("list", "workflows/runs"): "view",
    ("create", "workflows/runs"): "edit",
    ("update", "workflows/runs"): "edit",
    ("get", "workflows/payloads"): "edit",
    ("update", "workflows/approvals"): "admin",
    ("patch", "workflows/status"): "nobody",
    ("update", "workflows/status"): "nobody",
    ("patch", "workflowruns/status"): "nobody",
    ("get", "core:secrets"): "nobody",
    ("get", "core:namespaces"): "nobody",
}


@pytest.mark.parametrize(("verb", "resource"), TABLE)
def test_people(may: Access, verb: str, resource: str) -> None:
    first = TABLE[verb, resource]
    allowed = set() if first == "nobody" else set(ROLES[ROLES.index(first) :])
    assert {role for role in ROLES if may(role, verb, resource, HERE, "w")} == allowed
    assert not any(may(role, verb, resource, ELSEWHERE, "w") for role in ROLES)
    assert not may("alice", verb, resource, HERE, "w"), "who has no role may nothing"


EVERYWHERE = {
    "operator": {
        *((verb, kind) for kind in ("workflows", "workflowruns") for verb in ("get", "list", "watch")),
        ("patch", "workflows"), ("delete", "workflowruns"), ("patch", "workflows/status"),
        ("patch", "workflowruns/status"), ("create", "core:events"),
        ("list", "apiextensions.k8s.io:customresourcedefinitions"),
        ("watch", "apiextensions.k8s.io:customresourcedefinitions"),
    },
    "gateway": {("create", "authentication.k8s.io:tokenreviews"), ("create", "authorization.k8s.io:subjectaccessreviews")},
    "worker": {("get", "core:namespaces")},
}  # fmt: skip
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
RESOURCES = (
    "workflows", "workflowruns", "workflows/status", "workflowruns/status", "workflows/runs", "workflows/payloads",
    "workflows/approvals", "core:secrets", "core:namespaces", "core:events", "core:pods", "core:configmaps",
    "apiextensions.k8s.io:customresourcedefinitions", "authentication.k8s.io:tokenreviews",
    "authorization.k8s.io:subjectaccessreviews", "rbac.authorization.k8s.io:roles",
)  # fmt: skip


@pytest.mark.parametrize("process", PROCESSES)
def test_processes_may_what_they_do_and_no_more(may: Access, process: str) -> None:
    allowed = {(verb, kind) for kind in RESOURCES for verb in VERBS if may(process, verb, kind, HERE, "x")}
    assert allowed == EVERYWHERE[process]


def test_the_operator_touches_no_webhook_but_its_own(may: Access) -> None:
    kind = "admissionregistration.k8s.io:validatingwebhookconfigurations"
    assert may("operator", "get", kind, name="stepwell")
    assert may("operator", "patch", kind, name="stepwell")
    assert not may("operator", "patch", kind, name="other")
    assert not may("operator", "list", kind)
    assert not any(may("operator", verb, kind, name="stepwell") for verb in ("create", "update", "delete"))


def test_tokens_are_users(base: KubeServer) -> None:
    """The rest asks about names; that a token means its name is shown once."""
    bind(base, "bob", *aggregated("view"), namespace=HERE)
    assert base.kubectl("get", "swf", user="bob", namespace=HERE).returncode == 0
    assert 'User "bob" cannot list' in base.kubectl("get", "swf", user="bob", namespace=ELSEWHERE, check=False).stderr
    for subresource, answer in (("runs", "yes"), ("payloads", "no")):
        asked = ("auth", "can-i", "get", "workflows.stepwell.dev/w", f"--subresource={subresource}")
        assert base.kubectl(*asked, user="bob", namespace=HERE, check=False).stdout.strip() == answer


# -- the policy for starts --------------------------------------------------------------------------------------------


def starter(kube: KubeServer, user: str, *workflows: str) -> None:
    """Let a user create WorkflowRuns, and start the workflows named (of all, for ``*``)."""
    rules: list[dict[str, Any]] = [
        {"apiGroups": ["stepwell.dev"], "resources": ["workflowruns"], "verbs": ["create", "patch"]}
    ]
    start = {"apiGroups": ["stepwell.dev"], "resources": ["workflows/runs"], "verbs": ["create"]}
    if workflows:
        rules.append(start if workflows == ("*",) else {**start, "resourceNames": list(workflows)})
    name = {"name": f"starter-{user}", "namespace": HERE}
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": name, "rules": rules}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": name,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name["name"]},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    for each in (role, binding):
        kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=json.dumps(each))


def start(kube: KubeServer, user: str, workflow: str, *how: str) -> str:
    """What kubectl says of a start that is refused; "" of one that is not."""
    run = {
        "apiVersion": "stepwell.dev/v1alpha1",
        "kind": "WorkflowRun",
        "metadata": {"name": "applied"} if how else {"generateName": "r-"},
        "spec": {"workflowRef": {"name": workflow}},
    }
    how = how or ("create",)
    done = kube.kubectl(*how, "-f", "-", user=user, namespace=HERE, given=json.dumps(run), check=False)
    return done.stderr if done.returncode else ""


def test_whoever_creates_a_run_needs_the_right_to_start_its_workflow(base: KubeServer) -> None:
    starter(base, "alice")
    refused = eventually_sync(lambda: start(base, "alice", "welcome"), 30)
    assert "you may not start the workflow welcome" in refused
    assert "ask for the verb create on the resource workflows/runs of the API group stepwell.dev" in refused
    assert f"(resource name welcome) in namespace {HERE}" in refused
    for way in (["create", "--dry-run=server"], ["apply", "--server-side"]):
        assert "you may not start the workflow welcome" in start(base, "alice", "welcome", *way)
    starter(base, "alice", "welcome")
    eventually_sync(lambda: start(base, "alice", "welcome") == "", 30)
    assert "you may not start the workflow other" in start(base, "alice", "other")
    starter(base, "alice", "*")
    eventually_sync(lambda: start(base, "alice", "other") == "", 30)


def test_the_role_edit_may_start_and_view_may_not(base: KubeServer) -> None:
    bind(base, "worker", *aggregated("edit"), namespace=HERE)
    eventually_sync(lambda: start(base, "worker", "welcome") == "", 30)
    bind(base, "gateway", *aggregated("view"), namespace=HERE)
    assert 'User "gateway" cannot create resource "workflowruns"' in start(base, "gateway", "welcome")
    for user, role in (("worker", "edit"), ("gateway", "view")):
        names = [f"tests-{user}-{each}" for each in aggregated(role)]
        base.kubectl("delete", "rolebinding", *names, namespace=HERE)


# -- stepwell rbac ----------------------------------------------------------------------------------------------------

WORKFLOW = f"""\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {{name: welcome, namespace: {HERE}}}
spec:
  triggers:
    - {{name: t, webhook: {{auth: {{hmac: {{preset: GitHub, secretRefs: [{{name: hook, key: k}}]}}}}}}}}
  steps:
    - {{name: a, httpCall: {{url: https://x.example/, auth: {{bearer: {{secretRef: {{name: api, key: token}}}}}}}}}}
"""


def test_what_rbac_prints_can_be_applied_and_is_the_least(base: KubeServer, may: Access, tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(WORKFLOW)
    for printed in (within("rbac", file).stdout, within("rbac", "--json", file).stdout):
        base.kubectl("apply", "-f", "-", given=printed)
        base.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=printed)
    accounts = {name: f"system:serviceaccount:{kube_access.SYSTEM}:stepwell-{name}" for name in ("worker", "gateway")}

    def allowed(account: str) -> set[tuple[str, str, str]]:
        return {
            (verb, namespace, name)
            for verb in VERBS
            for namespace in (HERE, ELSEWHERE)
            for name in ("api", "hook", "other", "")
            if may(accounts[account], verb, "core:secrets", namespace, name)
        }

    eventually_sync(lambda: allowed("worker"), 10)
    assert allowed("worker") == {("get", HERE, "api")}
    assert allowed("gateway") == {("get", HERE, "hook")}


def test_the_commands_of_the_docs_work(base: KubeServer, may: Access) -> None:
    kube_access.namespace(base, "growth")
    base.kubectl("create", "secret", "generic", "api", namespace="growth")
    text = (BASE.parents[1] / "docs" / "security.md").read_text("utf-8").replace("\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("    kubectl ")]
    assert len(commands) == 4
    for command in commands:
        base.kubectl(*command[1:])
    bind_user = ("create", "rolebinding", "starter", "--role=starter", "--user=bob")
    base.kubectl(*bind_user, namespace="growth")
    eventually_sync(lambda: may("bob", "create", "workflows/runs", "growth", "welcome"), 10)
    assert not may("bob", "create", "workflows/runs", "growth", "other")
    worker = f"system:serviceaccount:{kube_access.SYSTEM}:stepwell-worker"
    assert may(worker, "get", "core:secrets", "growth", "any")
    assert not may(worker, "list", "core:secrets", "growth")
    assert not may(worker, "get", "core:secrets", ELSEWHERE, "any")
