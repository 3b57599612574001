"""Whether NetworkPolicies let a connection through, as Kubernetes defines it: a pod that a policy selects for a direction may do
what one of those policies names; any other pod may do everything. Both ends have to agree.

Whether an `ipBlock` holds the addresses of pods is left to the network plug-in: ``blocks_hold_pods`` says which kind it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, TypeAlias

Policy: TypeAlias = dict[str, Any]
Labels: TypeAlias = dict[str, str]


@dataclass(frozen=True, slots=True)
class End:
    """A pod, or with ``namespace`` None an address outside of all pods."""

    address: str
    namespace: str | None = None
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """A cluster's policies, and its namespaces' labels without the one that has each one's name."""

    policies: list[Policy]
    namespaces: dict[str, Labels]
    blocks_hold_pods: bool

    def passes(self, source: End, target: End, port: int, protocol: str = "TCP") -> bool:
        """Whether a connection from one to a port of the other comes about."""
        return self._agrees("egress", source, target, port, protocol) and self._agrees(
            "ingress", target, source, port, protocol
        )

    def _agrees(self, direction: str, own: End, other: End, port: int, protocol: str) -> bool:
        named = list(self._selecting(own, direction))
        return not named or any(
            self._names_peer(rule, "to" if direction == "egress" else "from", own, other)
            and _names_port(rule, port, protocol)
            for policy in named
            for rule in policy["spec"].get(direction, ())
        )

    def _selecting(self, pod: End, direction: str) -> Iterator[Policy]:
        for policy in self.policies:
            spec = policy["spec"]
            here = pod.namespace is not None and policy["metadata"]["namespace"] == pod.namespace
            types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
            if here and direction.title() in types and matches(spec["podSelector"], pod.labels):
                yield policy

    def _names_peer(self, rule: dict[str, Any], word: str, own: End, other: End) -> bool:
        return not rule.get(word) or any(self._is_peer(peer, own, other) for peer in rule[word])

    def _is_peer(self, peer: dict[str, Any], own: End, other: End) -> bool:
        if "ipBlock" in peer:
            block, address = peer["ipBlock"], ip_address(other.address)
            inside = address in ip_network(block["cidr"])
            excepted = any(address in ip_network(each) for each in block.get("except", ()))
            return inside and not excepted and (other.namespace is None or self.blocks_hold_pods)
        if other.namespace is None:
            return False
        if "namespaceSelector" not in peer:
            return own.namespace == other.namespace and matches(peer["podSelector"], other.labels)
        labels = self.namespaces.get(other.namespace, {}) | {"kubernetes.io/metadata.name": other.namespace}
        return matches(peer["namespaceSelector"], labels) and matches(peer.get("podSelector", {}), other.labels)


def matches(selector: dict[str, Any], labels: Labels) -> bool:
    """A label selector; the empty one selects all."""
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        _holds(each, labels) for each in selector.get("matchExpressions", ())
    )


def _holds(expression: dict[str, Any], labels: Labels) -> bool:
    key, operator = expression["key"], expression["operator"]
    if operator in {"Exists", "DoesNotExist"}:
        return (key in labels) == (operator == "Exists")
    return (labels.get(key) in expression["values"]) == (operator == "In")


def _names_port(rule: dict[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(
        each.get("protocol", "TCP") == protocol and each.get("port", port) <= port <= each.get("endPort", each["port"])
        for each in ports
    )
