"""deploy/base gives nobody more than is said: no Secrets of the whole cluster, no wildcards, nothing that could give more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FILES = sorted({*(ROOT / "deploy").rglob("*.yaml"), *(ROOT / "crds").glob("*.yaml")})
READER = "stepwell-secret-reader"
GIVING = {"escalate", "bind", "impersonate"}


def documents() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for file in FILES:
        for document in yaml.safe_load_all(file.read_text("utf-8")):
            if isinstance(document, dict) and document.get("kind") not in {"Kustomization", "Component"}:
                found += document["items"] if document.get("kind") == "List" else [document]
    return found


def complaints(manifests: list[dict[str, Any]]) -> Iterator[str]:
    """Whatever is given beyond what may be."""
    for document in manifests:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind == "ClusterRoleBinding" and document["roleRef"]["name"] in {READER, "cluster-admin", "admin", "edit"}:
            yield f"{kind} {name} binds {document['roleRef']['name']} everywhere"
        if kind in {"ClusterRoleBinding", "RoleBinding"}:
            yield from (
                f"{kind} {name}: a {each['kind']}" for each in document["subjects"] if each["kind"] != "ServiceAccount"
            )
        if kind in {"Role", "ClusterRole"}:
            for rule in document.get("rules") or ():
                yield from (f"{kind} {name}: {why}" for why in _wrong(rule, kind, name))


def _wrong(rule: dict[str, Any], kind: str, name: str) -> Iterator[str]:
    groups, resources, verbs = ({*rule.get(word, ())} for word in ("apiGroups", "resources", "verbs"))
    if "*" in groups | resources | verbs or GIVING & verbs or "nonResourceURLs" in rule:
        yield f"{sorted(verbs)} {sorted(resources)}"
    if any(resource.partition("/")[0] == "secrets" for resource in resources):
        if name == READER and verbs == {"get"} and resources == {"secrets"}:
            return
        if kind == "Role" and rule.get("resourceNames") and verbs == {"get"}:
            return
        yield "Secrets"


def test_nothing_gives_more_than_it_may() -> None:
    found = documents()
    assert [each["metadata"]["name"] for each in found if each["kind"] == "ClusterRole"], "there are roles to look at"
    assert list(complaints(found)) == []


def test_the_secret_reader_is_bound_by_nothing_and_aggregated_into_nothing() -> None:
    (reader,) = [each for each in documents() if each["metadata"]["name"] == READER]
    assert reader["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    assert "labels" not in reader["metadata"]
    assert not [each for each in documents() if each.get("roleRef", {}).get("name") == READER]


def test_the_policy_for_starts_refuses_where_it_cannot_be_asked() -> None:
    policies = [each for each in documents() if each["kind"] == "ValidatingAdmissionPolicy"]
    bindings = [each for each in documents() if each["kind"] == "ValidatingAdmissionPolicyBinding"]
    assert [each["spec"]["failurePolicy"] for each in policies] == ["Fail"]
    assert [(each["spec"]["policyName"], each["spec"]["validationActions"]) for each in bindings] == [
        (policies[0]["metadata"]["name"], ["Deny"])
    ]


def role(**rule: Any) -> dict[str, Any]:
    return {"kind": "ClusterRole", "metadata": {"name": "x"}, "rules": [{"apiGroups": [""], **rule}]}


@pytest.mark.parametrize(
    "document",
    [
        role(resources=["secrets"], verbs=["get"]),
        role(resources=["pods", "secrets"], verbs=["list"]),
        role(resources=["secrets"], resourceNames=["a"], verbs=["get"]),
        role(resources=["*"], verbs=["get"]),
        role(resources=["pods"], verbs=["*"]),
        role(resources=["clusterroles"], verbs=["escalate"]),
        {**role(resources=["secrets"], verbs=["get"]), "kind": "Role"},
        {"kind": "ClusterRoleBinding", "metadata": {"name": "x"}, "roleRef": {"name": READER}, "subjects": []},
        {
            "kind": "RoleBinding",
            "metadata": {"name": "x"},
            "roleRef": {"name": "y"},
            "subjects": [{"kind": "Group", "name": "system:authenticated"}],
        },
    ],
)
def test_a_gift_is_found(document: dict[str, Any]) -> None:
    assert list(complaints([document]))


def test_the_kustomization_lists_every_file() -> None:
    listed = yaml.safe_load((ROOT / "deploy" / "base" / "kustomization.yaml").read_text())["resources"]
    there = {file.name for file in (ROOT / "deploy" / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert there <= set(listed)
