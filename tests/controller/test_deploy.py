"""The manifests on a real API server: admitted as they are, applied twice, and by Pod Security's strictest level."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kube_access import SYSTEM, Access
from manifests import Document, of, pods, rendered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kube_server import KubeServer

OVERLAYS = ("overlays/kind", "overlays/production")
SAMPLES = "overlays/kind/samples"
ADMISSION = ("ValidatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


@pytest.fixture(scope="module")
def cluster(kube: KubeServer) -> KubeServer:
    """The cluster with the namespaces as the manifests label them."""
    for target in ("base", SAMPLES):
        given = json.dumps(next(iter(of(rendered(target), "Namespace").values())))
        kube.kubectl("apply", "--server-side", "-f", "-", given=given)
    return kube


@pytest.fixture(scope="module")
def access(cluster: KubeServer) -> Iterator[Access]:
    asking = Access(cluster)
    yield asking
    asking.close()


def written(directory: Path, documents: list[Document]) -> str:
    """A file with the documents."""
    file = directory / "manifests.yaml"
    file.write_text(yaml.dump_all(documents, Dumper=yaml.CSafeDumper), "utf-8")
    return str(file)


@pytest.mark.parametrize("target", [*OVERLAYS, SAMPLES])
def test_the_api_server_takes_them_as_they_are(cluster: KubeServer, tmp_path: Path, target: str) -> None:
    # CRDs are the fixture's own: an unchanged one is written all the same, and would be watched anew
    documents = [each for each in rendered(target) if each["kind"] != "CustomResourceDefinition"]
    arguments = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", written(tmp_path, documents))
    done = cluster.kubectl(*arguments)
    assert len(done.stdout.splitlines()) == len(documents)
    assert done.stderr == "", "a warning, such as of Pod Security"


def test_an_unknown_field_would_be_refused(cluster: KubeServer, tmp_path: Path) -> None:
    (worker,) = [
        each
        for each in rendered("base")
        if each["metadata"]["name"] == "stepwell-worker" and each["kind"] == "Deployment"
    ]
    worker = json.loads(json.dumps(worker))
    worker["spec"]["template"]["spec"]["readinessGate"] = []
    arguments = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", written(tmp_path, [worker]))
    done = cluster.kubectl(*arguments, check=False)
    assert done.returncode == 1
    assert "readinessGate" in done.stderr


@pytest.mark.parametrize("way", [("--server-side",), ()])
def test_the_next_version_is_applied_over_this_one(cluster: KubeServer, tmp_path: Path, way: tuple[str, ...]) -> None:
    # what is asked at every write would be asked of other tests' objects as well
    skipped = {"CustomResourceDefinition", "PersistentVolumeClaim", *ADMISSION}
    if not way:  # one by one, so only those that have a field that cannot change
        skipped |= {each["kind"] for each in rendered("overlays/kind")} - {"Deployment", "StatefulSet", "Service"}
    documents = [each for each in rendered("overlays/kind") if each["kind"] not in skipped]
    try:
        cluster.kubectl("apply", *way, "-f", written(tmp_path, documents))
        cluster.kubectl("scale", "-n", SYSTEM, "deployment/stepwell-worker", "--replicas=7")
        before = _stored(cluster, documents, tmp_path)
        upgraded = json.loads(json.dumps(documents).replace("stepwell:kind", "stepwell:next"))
        cluster.kubectl("apply", *way, "-f", written(tmp_path, upgraded))
        after = _stored(cluster, documents, tmp_path)
        assert after != before
        assert after == json.loads(json.dumps(before).replace("stepwell:kind", "stepwell:next")), (
            "the image, nothing else"
        )
        assert after["Deployment stepwell-worker"]["spec"]["replicas"] == 7, "the autoscaler's number stays"
        images = json.dumps([each["spec"] for name, each in after.items() if name.startswith("Deployment stepwell-")])
        assert images.count('"stepwell:next"') == 4, "three processes and the migrations"
        if way:
            cluster.kubectl("apply", *way, "-f", written(tmp_path, documents))
            assert _stored(cluster, documents, tmp_path) == before, "a rollback leaves nothing of it"
    finally:
        kept = {"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
        leaving = [each for each in documents if each["kind"] not in kept]
        cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", written(tmp_path, leaving))


def _stored(cluster: KubeServer, documents: list[Document], directory: Path) -> dict[str, Document]:
    """What the API server has of the documents, without what it counts and notes itself."""
    found = json.loads(cluster.kubectl("get", "-f", written(directory, documents), "-o", "json").stdout)["items"]
    noted = ("managedFields", "resourceVersion", "generation", "annotations")
    for each in found:
        each["metadata"] = {name: value for name, value in each["metadata"].items() if name not in noted}
    return {f"{each['kind']} {each['metadata']['name']}": each for each in found}


@pytest.mark.parametrize("target", [*OVERLAYS, SAMPLES])
def test_the_strictest_level_of_pod_security_admits_every_pod(cluster: KubeServer, target: str) -> None:
    namespace = "stepwell-samples" if target == SAMPLES else SYSTEM
    claims = {
        name: [claim["metadata"]["name"] for claim in each["spec"]["volumeClaimTemplates"]]
        for name, each in of(rendered(target), "StatefulSet").items()
    }
    templates = pods(rendered(target))
    created = _create(cluster, namespace, {name: _spec(each, claims.get(name, [])) for name, each in templates.items()})
    cluster.kubectl("delete", "pods", "-n", namespace, "--all", "--force", "--grace-period=0")
    assert (created.returncode, created.stderr) == (0, "")
    assert len(created.stdout.splitlines()) == len(templates)


@pytest.mark.parametrize("namespace", [SYSTEM, "stepwell-samples"])
def test_a_laxer_pod_would_be_refused(cluster: KubeServer, namespace: str) -> None:
    spec = json.loads(json.dumps(pods(rendered("base"))["stepwell-worker"]["spec"]))
    del spec["securityContext"]["seccompProfile"]
    refused = _create(cluster, namespace, {"lax": spec})
    assert 'violates PodSecurity "restricted:latest": seccompProfile' in refused.stderr


def _spec(template: Document, claims: list[str]) -> dict[str, Any]:
    """A pod's, with the volumes that its StatefulSet would add."""
    volumes = [{"name": each, "persistentVolumeClaim": {"claimName": f"{each}-0"}} for each in claims]
    return {**template["spec"], "volumes": [*template["spec"].get("volumes", ()), *volumes]}


def _create(cluster: KubeServer, namespace: str, specs: dict[str, dict[str, Any]]) -> Any:
    """Create pods, as controllers do: by themselves, so that admission sees what would run."""
    items = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
        for name, spec in specs.items()
    ]
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    return cluster.kubectl("create", "-f", "-", given=given, check=False)


NEEDS = {
    "stepwell-operator": [
        ("list", "workflows"),
        ("watch", "workflowruns"),
        ("patch", "workflows/status"),
        ("create", "core:events"),
        ("watch", "apiextensions.k8s.io:customresourcedefinitions"),
    ],
    "stepwell-gateway": [
        ("create", "authentication.k8s.io:tokenreviews"),
        ("create", "authorization.k8s.io:subjectaccessreviews"),
    ],
    "stepwell-worker": [("get", "core:namespaces")],
}


def test_each_pods_account_may_do_what_its_process_does(cluster: KubeServer, access: Access, tmp_path: Path) -> None:
    roles = [
        each for each in rendered("base") if each["kind"] in {"ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
    ]
    cluster.kubectl("apply", "--server-side", "-f", written(tmp_path, roles))
    for name, template in pods(rendered("base")).items():
        account = f"system:serviceaccount:{SYSTEM}:{template['spec']['serviceAccountName']}"
        assert [(verb, what) for verb, what in NEEDS[name] if not access(account, verb, what)] == []
        for verb in ("get", "list", "watch"):
            assert not access(account, verb, "core:secrets"), f"{name} may {verb} Secrets everywhere"
            assert not access(account, verb, "core:secrets", SYSTEM), f"{name} may {verb} Secrets of its own namespace"
        assert not access(account, "create", "core:pods", SYSTEM)
