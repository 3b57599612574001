"""``STEPWELL_HTTP_PROXY``: for clusters that are left through a proxy only.

The proxy resolves and connects, so the address is its business; ours is the name: no literal address that the guard
refuses, in any spelling, and no name that means this machine or this cluster. What a namespace is allowed by
``stepwell.dev/http-allow`` lies inside and is reached directly, by the guarded way.
"""

from __future__ import annotations

import socket
from base64 import b64encode
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from stepwell.adapters.http.guard import Address, AddressPolicy, refusal

if TYPE_CHECKING:
    from stepwell.adapters.http.own_services import OwnServices

_INSIDE = ("localhost", "local", "localdomain", "internal", "svc", "cluster", "home.arpa", "intranet", "lan")
"""Endings of names that no public name has."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """``url`` is without credentials; ``authorization`` is the value of ``Proxy-Authorization``."""

    url: str
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)


def parse_proxy(text: str) -> Proxy:
    """``http://[user:password@]host[:port]``. Raises ValueError, which repeats nothing of a password."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as exc:
        raise ValueError("is not a URL") from exc
    if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("must be http://host:port, with user:password@ before the host where the proxy wants it")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {b64encode(pair.encode()).decode()}"
    return Proxy(f"http://{host}:{port or 3128}", parts.hostname, port or 3128, authorization)


def name_refusal(host: str, port: int | None, policy: AddressPolicy, own: OwnServices) -> str | None:
    """Why a proxy must not be asked for this host ("a private address"), or None where it may be."""
    name = host.lower().rstrip(".")
    ip = _literal(name)
    if ip is not None:
        return "one of Stepwell's own services" if own.covers(str(ip), port or 0) else refusal(ip, policy)
    if own.names(name, port):
        return "one of Stepwell's own services"
    if "." not in name or any(name == ending or name.endswith(f".{ending}") for ending in _INSIDE):
        return "a name of the inside"
    return None


def _literal(name: str) -> Address | None:
    """An address in any spelling that a resolver takes for one: 127.1, 0x7f.1, 2130706433, 0177.0.0.1."""
    try:
        return ip_address(name)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(name))
    except (OSError, ValueError):
        return None
