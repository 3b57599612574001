"""The NetworkPolicies of the overlays against every connection that somebody needs, and against some that nobody should have."""

from __future__ import annotations

from typing import Any

import manifests
import pytest
from manifests import pods, rendered
from network_policies import End, Network, Policy, matches

pytestmark = pytest.mark.skipif(manifests.kubectl() is None, reason="no kubectl, whose kustomize renders the manifests")
SYSTEM, SAMPLES = "stepwell-system", "stepwell-samples"
NAMESPACES = {"ingress-nginx": {"stepwell.dev/ingress": "true"}, "monitoring": {"stepwell.dev/monitoring": "true"}}
OVERLAYS = {"kind": ("overlays/kind", "overlays/kind/samples"), "production": ("overlays/production",)}
OWN = ("operator", "gateway", "worker")

OUTSIDE = {
    "API server": End("172.18.0.3"),
    "API server's Service": End("10.96.0.1"),
    "node": End("172.18.0.2"),
    "database": End("10.20.30.40"),
    "internet": End("93.184.215.14"),
    "internet by IPv6": End("2606:2800:21f:cb07:6820:80da:af6b:8b2c"),
    "metadata": End("169.254.169.254"),
    "metadata by IPv6": End("fd00:ec2::254"),
    "NodeLocal DNS": End("169.254.20.10"),
}
OTHERS = {
    "DNS": End("10.244.0.2", "kube-system", {"k8s-app": "kube-dns"}),
    "ingress": End("10.244.0.3", "ingress-nginx"),
    "Prometheus": End("10.244.0.4", "monitoring"),
    "stranger": End("10.244.0.5", "default"),
    "pretender": End("10.244.0.6", "default", {"app.kubernetes.io/name": "stepwell"}),
    "guest": End("10.244.0.8", SYSTEM, {"app": "debug"}),
    "service of users": End("10.244.0.7", "shop", {"app": "orders"}),
}

#: from, to, port; who is there in kind only
NEEDED = [
    *((each, "DNS", 53) for each in OWN),
    *((each, "NodeLocal DNS", 53) for each in OWN),
    *((each, "API server", 6443) for each in OWN),
    *((each, "API server's Service", 443) for each in OWN),
    *(("Prometheus", each, 9090) for each in OWN),
    ("API server", "operator", 9443),
    ("node", "operator", 9443),
    ("ingress", "gateway", 8080),
    ("worker", "internet", 443),
    ("worker", "internet by IPv6", 8443),
    ("worker", "service of users", 8080),
    ("worker", "API server's Service", 80),
]
NEEDED_BY_OVERLAY = {
    "production": [(each, "database", port) for each in OWN for port in (5432, 6432, 6379)],
    "kind": [
        *((each, "postgres", 5432) for each in OWN),
        *((each, "valkey", 6379) for each in OWN),
        ("node", "gateway", 8080),
        ("worker", "receiver", 8099),
    ],
}
REFUSED = [
    *((who, each, 9090) for each in OWN for who in ("stranger", "pretender", "ingress", "internet")),
    *((who, each, 8080) for each in ("operator", "worker") for who in ("stranger", "ingress", "node")),
    *(("stranger", each, 22) for each in OWN),
    *((each, "internet", port) for each in ("operator", "gateway") for port in (80, 53, 22)),
    *((each, "metadata", 80) for each in OWN),
    *((each, "metadata by IPv6", 80) for each in OWN),
    ("gateway", "service of users", 8080),
    ("operator", "gateway", 8080),
    *(("guest", "internet", 443), ("stranger", "guest", 80), ("guest", "database", 5432)),
]
REFUSED_BY_OVERLAY = {
    "production": [
        *(("stranger", "gateway", 8080), ("node", "gateway", 8080), ("pretender", "gateway", 8080)),
        *((each, "internet", 5432) for each in ("operator", "gateway")),
    ],
    "kind": [
        *((who, each, port) for who in ("stranger", "pretender") for each, port in (("postgres", 5432), ("valkey", 6379))),
        *((each, who, 443) for each in ("postgres", "valkey", "receiver") for who in ("internet", "API server", "DNS")),
        *(("gateway", "receiver", 8099), ("operator", "receiver", 8099), ("stranger", "receiver", 8099)),
        ("valkey", "postgres", 5432),
    ],
}  # fmt: skip


def ends(overlay: str) -> dict[str, End]:
    """Everybody by name: the overlay's pods, without ``stepwell-``, and who is around."""
    found = dict(OUTSIDE | OTHERS)
    for target in OVERLAYS[overlay]:
        namespace = SAMPLES if target.endswith("samples") else SYSTEM
        for number, (name, template) in enumerate(sorted(pods(rendered(target)).items()), start=10):
            labels = template["metadata"]["labels"]
            found[name.removeprefix("stepwell-")] = End(f"10.244.1.{number}", namespace, labels)
    return found


def policies(overlay: str) -> list[Policy]:
    documents = [each for target in OVERLAYS[overlay] for each in rendered(target)]
    return [each for each in documents if each["kind"] == "NetworkPolicy"]


def wrong(overlay: str, given: list[Policy], *, blocks_hold_pods: bool) -> list[tuple[Any, ...]]:
    """Connections that are needed and do not come about, and others that do."""
    network = Network(given, NAMESPACES, blocks_hold_pods)
    there = ends(overlay)

    def passes(source: str, target: str, port: int) -> bool:
        ways = ("TCP", "UDP") if port == 53 else ("TCP",)
        return all(network.passes(there[source], there[target], port, each) for each in ways)

    needed, refused = NEEDED + NEEDED_BY_OVERLAY[overlay], REFUSED + REFUSED_BY_OVERLAY[overlay]
    return [each for each in needed if not passes(*each)] + [each for each in refused if passes(*each)]


@pytest.mark.parametrize("blocks_hold_pods", [True, False], ids=["blocks hold pods", "blocks hold no pods"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_needed_passes_and_nothing_else(overlay: str, blocks_hold_pods: bool) -> None:
    assert wrong(overlay, policies(overlay), blocks_hold_pods=blocks_hold_pods) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_policy_is_there_for_nothing(overlay: str) -> None:
    """Without any one of them, a connection above is lost or comes about."""
    there = policies(overlay)
    idle = [
        each["metadata"]["name"]
        for each in there
        if not wrong(overlay, [other for other in there if other is not each], blocks_hold_pods=False)
    ]
    # in kind everybody may call the gateway, whoever is let in by a label included
    assert idle == (["gateway"] if overlay == "kind" else [])


def test_selectors_and_the_rules_of_policies() -> None:
    assert matches({}, {"a": "b"})
    assert not matches({"matchLabels": {"a": "b"}}, {"a": "c"})
    one_of = {"key": "a", "operator": "In", "values": ["b", "c"]}
    assert [matches({"matchExpressions": [one_of]}, each) for each in ({"a": "c"}, {"a": "d"}, {})] == [
        True,
        False,
        False,
    ]
    absent = {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}
    assert [matches(absent, each) for each in ({"b": ""}, {"a": ""})] == [True, False]
    pod, other = End("10.0.0.1", "x", {"a": "b"}), End("10.0.0.2", "x")

    def network(**spec: Any) -> Network:
        return Network(
            [{"metadata": {"namespace": "x"}, "spec": {"podSelector": {}} | spec}], {}, blocks_hold_pods=True
        )

    assert not network().passes(other, pod, 80), "without types it is about what comes in"
    assert network().passes(pod, OUTSIDE["internet"], 80), "and about nothing else"
    range_of_ports = network(ingress=[{"ports": [{"port": 80, "endPort": 90}]}])
    assert [range_of_ports.passes(other, pod, port) for port in (79, 80, 90, 91)] == [False, True, True, False]
    own_namespace = network(ingress=[{"from": [{"podSelector": {}}]}])
    assert [own_namespace.passes(each, pod, 80) for each in (other, OTHERS["stranger"])] == [True, False]
