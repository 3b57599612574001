"""Which addresses an ``httpCall`` may reach.

The verdict is on the numeric address that a socket is about to be connected to, never on the text of a URL: names,
decimal and octal spellings and redirects all end in such an address. IPv6 is a list of what is allowed (global unicast,
2000::/3, without its special parts), IPv4 a list of what is not: the IANA special-purpose address registries
(https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry). ``ipaddress.is_global``
differs from them between versions of Python, and knows no embedded addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What is allowed beyond public addresses.

    ``networks`` and ``hosts`` (name or literal address in lower case, port) are a namespace's allowances; they open private
    addresses, nothing else. ``allow_loopback`` is for local mode, where the user's own services are on the same machine.
    """

    allow_loopback: bool = False
    networks: frozenset[Network] = frozenset()
    hosts: frozenset[tuple[str, int]] = frozenset()

    def lists(self, host: str | None, port: int | None) -> bool:
        """Whether the host of a URL is allowed by name, or is a literal address that is."""
        if not host or port is None:
            return False
        name = host.lower().rstrip(".")
        if (name, port) in self.hosts:
            return True
        try:
            ip = plain_address(ip_address(name))
        except ValueError:
            return self.allow_loopback and name == "localhost"
        return (self.allow_loopback and ip.is_loopback) or any(ip in network for network in self.networks)


ALLOWABLE = frozenset({"a private address", "a carrier-grade NAT address", "a benchmarking address"})
"""What a namespace may be allowed; clusters number their networks so."""


METADATA = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # AWS, Google, Azure and most others
            "169.254.170.2",  # AWS ECS
            "169.254.170.23",  # AWS EKS pod identity
            "fd00:ec2::23",
            "fd00:ec2::254",
            "fd20:ce::254",  # Google
            "168.63.129.16",  # Azure's host; a public address
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
            "169.254.42.42",  # Scaleway
            "fd00:42::42",
        ),
    )
)
"""Addresses that hand credentials to whoever asks; no policy allows them."""

_IPV4 = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "an unspecified address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a carrier-grade NAT address"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a protocol assignment"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "a benchmarking address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
    )
)
_IPV6 = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("::/128", "an unspecified address"),
        ("::1/128", "a loopback address"),
        ("64:ff9b:1::/48", "a local NAT64 address"),
        ("100::/64", "a discard-only address"),
        ("2001::/32", "a Teredo tunnel address"),
        ("2001:2::/48", "a benchmarking address"),
        ("2001:10::/28", "an ORCHID"),
        ("2001:20::/28", "an ORCHID"),
        ("2001::/23", "a protocol assignment"),
        ("2001:db8::/32", "a documentation address"),
        ("2002::/16", "a 6to4 tunnel address"),
        ("3fff::/20", "a documentation address"),
        ("5f00::/16", "a segment routing address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_EMBEDDING = (_NAT64, *map(IPv6Network, ("::ffff:0:0:0/96", "::/96")))
"""NAT64, IPv4-translated and IPv4-compatible: an IPv4 address in the last 32 bits. Only NAT64 is in use."""
_PUBLIC_ONLY = AddressPolicy()


def refusal(address: str | Address, policy: AddressPolicy, *, listed: bool = False) -> str | None:
    """Why the address must not be connected to ("a private address"), or None where it may be.

    ``listed``: the policy names the host that is asked for, whatever its private address.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return "not an IP address"
    if ip in METADATA:
        return "a cloud metadata address"
    if isinstance(ip, IPv4Address):
        return _judge(next((what for network, what in _IPV4 if ip in network), None), ip, policy, listed=listed)
    return _refusal6(ip, policy, listed=listed)


def plain_address(ip: Address) -> Address:
    """An IPv4 address that is mapped into IPv6, as what it is."""
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def _refusal6(ip: IPv6Address, policy: AddressPolicy, *, listed: bool) -> str | None:
    if ip.scope_id is not None:
        return "an address with a zone"
    if ip in _MAPPED:
        return refusal(_last32(ip), policy, listed=listed)
    what = next((what for network, what in _IPV6 if ip in network), None)
    if what is not None:
        return _judge(what, ip, policy, listed=listed)
    if any(ip in network for network in _EMBEDDING):
        # What is allowed on this machine is not what a translator may be asked to reach for us.
        inner = refusal(_last32(ip), _PUBLIC_ONLY)
        if inner is not None:
            return f"{inner} ({_last32(ip)}) inside an IPv6 address"
    return None if ip in _GLOBAL_UNICAST or ip in _NAT64 else "a reserved address"


def _judge(what: str | None, ip: Address, policy: AddressPolicy, *, listed: bool) -> str | None:
    if what == "a loopback address" and policy.allow_loopback:
        return None
    if what in ALLOWABLE and (listed or any(ip in network for network in policy.networks)):
        return None
    return what


def _last32(ip: IPv6Address) -> IPv4Address:
    return IPv4Address(int(ip) & 0xFFFFFFFF)
