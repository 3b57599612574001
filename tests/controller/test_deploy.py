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
        upgraded = json.loads(json.dumps(documents).replace("stepwell:kind", "stepwell:next"))
        cluster.kubectl("apply", *way, "-f", written(tmp_path, upgraded))
        found = json.loads(cluster.kubectl("get", "-n", SYSTEM, "deployments", "-o", "json").stdout)["items"]
        images = {
            each["metadata"]["name"]: each["spec"]["template"]["spec"]["containers"][0]["image"] for each in found
        }
        assert {name: image for name, image in images.items() if name.startswith("stepwell-")} == dict.fromkeys(
            ("stepwell-operator", "stepwell-gateway", "stepwell-worker"), "stepwell:next"
        )
        (worker,) = [each for each in found if each["metadata"]["name"] == "stepwell-worker"]
        assert worker["spec"]["replicas"] == 7, "the autoscaler's number stays"
    finally:
        kept = {"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
        leaving = [each for each in documents if each["kind"] not in kept]
        cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", written(tmp_path, leaving))


@pytest.mark.parametrize("target", [*OVERLAYS, SAMPLES])
def test_the_strictest_level_of_pod_security_admits_every_pod(cluster: KubeServer, target: str) -> None:
    namespace = "stepwell-samples" if target == SAMPLES else SYSTEM
    claims = [
        {"name": claim["metadata"]["name"], "emptyDir": {}}
        for each in of(rendered(target), "StatefulSet").values()
        for claim in each["spec"]["volumeClaimTemplates"]
    ]
    for name, template in pods(rendered(target)).items():
        spec = template["spec"] | {"volumes": [*template["spec"].get("volumes", ()), *claims]}
        created = _create(cluster, namespace, name, spec)
        assert (created.returncode, created.stderr) == (0, ""), f"{name}: {created.stderr}"


@pytest.mark.parametrize("namespace", [SYSTEM, "stepwell-samples"])
def test_a_laxer_pod_would_be_refused(cluster: KubeServer, namespace: str) -> None:
    spec = json.loads(json.dumps(pods(rendered("base"))["stepwell-worker"]["spec"]))
    del spec["securityContext"]["seccompProfile"]
    refused = _create(cluster, namespace, "lax", spec)
    assert 'violates PodSecurity "restricted:latest": seccompProfile' in refused.stderr


def _create(cluster: KubeServer, namespace: str, name: str, spec: dict[str, Any]) -> Any:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
    return cluster.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod), check=False)


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
