"""What each namespace is allowed beyond public addresses: the annotation ``stepwell.dev/http-allow``.

Its entries are ``host:port`` and networks such as ``10.1.0.0/16``, separated by commas. A network opens its private
addresses on every port; a host opens whatever private address it resolves to, on that port. Nothing opens loopback,
link-local, metadata or other special addresses, and an entry that pretends to is refused.
"""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Protocol

from stepwell.adapters.http.guard import ALLOWABLE, AddressPolicy, Network, refusal
from stepwell.domain.errors import StepwellError

ANNOTATION = "stepwell.dev/http-allow"
MAX_ENTRIES = 256

_HOST = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*\.?\Z")
_PUBLIC = AddressPolicy()


class AllowanceError(StepwellError):
    """The annotation ``stepwell.dev/http-allow`` of a namespace cannot be read."""

    exit_code = 2


class Allowances(Protocol):
    """Knows what is allowed to a namespace."""

    async def policy(self, namespace: str) -> AddressPolicy:
        """The policy as it stands now. Raises AllowanceError, or UnavailableError where it cannot be found out."""


class StaticAllowances:
    """One policy for every namespace but those that have one of their own: local mode, and tests."""

    def __init__(self, policy: AddressPolicy, **namespaces: AddressPolicy) -> None:
        self._policy = policy
        self._namespaces = namespaces

    async def policy(self, namespace: str) -> AddressPolicy:
        """The namespace's policy."""
        return self._namespaces.get(namespace, self._policy)


def with_annotation(text: str | None, base: AddressPolicy = _PUBLIC) -> AddressPolicy:
    """A policy widened by an annotation's text. Raises AllowanceError with every entry that is wrong."""
    networks: set[Network] = set()
    hosts: set[tuple[str, int]] = set()
    problems: list[str] = []
    entries = [entry.strip() for entry in (text or "").split(",") if entry.strip()]
    if len(entries) > MAX_ENTRIES:
        problems.append(f"there are {len(entries)} entries; at most {MAX_ENTRIES} are allowed")
    for entry in entries[:MAX_ENTRIES]:
        try:
            if "/" in entry:
                networks.add(_network(entry))
            else:
                hosts.add(_host(entry))
        except ValueError as exc:
            problems.append(f"{entry[:100]!r} {exc}")
    if problems:
        message = f"the annotation {ANNOTATION} of the namespace: {'; '.join(problems)}"
        raise AllowanceError(message)
    return replace(base, networks=base.networks | networks, hosts=base.hosts | hosts)


def _network(entry: str) -> Network:
    try:
        network = ip_network(entry)
    except ValueError as exc:
        why = "has bits behind its prefix" if "host bits" in str(exc) else "is not a network such as 10.1.0.0/16"
        raise ValueError(why) from exc
    found = refusal(network.network_address, _PUBLIC)
    if found is not None and found not in ALLOWABLE and found == refusal(network.broadcast_address, _PUBLIC):
        message = f"can never be allowed: it is {found}"
        raise ValueError(message)
    return network


def _host(entry: str) -> tuple[str, int]:
    host, colon, port = entry.rpartition(":")
    if not colon or not port.isdecimal() or not port.isascii() or not 1 <= int(port) <= 65535:
        raise ValueError("is neither host:port nor a network such as 10.1.0.0/16")
    name = host.lower()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    elif ":" in name:
        raise ValueError("is not host:port; an IPv6 address stands in brackets")
    try:
        found = refusal(ip_address(name), _PUBLIC)
    except ValueError:
        if not _HOST.match(name) or name.replace(".", "").isdecimal():
            raise ValueError("does not begin with a host name or an address") from None
        return name.rstrip("."), int(port)
    if found is not None and found not in ALLOWABLE:
        message = f"can never be allowed: it is {found}"
        raise ValueError(message)
    return name, int(port)
