"""Stepwell's own services, which no ``httpCall`` reaches whatever is allowed: its databases and the API server."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stepwell.adapters.http.guard import Address, plain_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

FRESH = 30.0  # seconds that the addresses of a name are believed

Endpoint = tuple[str, int | None]
"""A host name or an address, and its port; None: every port."""


def endpoints(environment: Mapping[str, str], *, database_url: str | None, redis_url: str | None) -> set[Endpoint]:
    """What a process's settings name, and the API server of the cluster that it runs in."""
    found: set[Endpoint] = set()
    if redis_url:
        parts = urlsplit(redis_url)
        if parts.hostname:
            found.add((parts.hostname, parts.port or 6379))
    if database_url:
        found |= _database(database_url)
    api_server = environment.get("KUBERNETES_SERVICE_HOST")
    if api_server:
        found |= {
            (api_server, None),
            *((f"kubernetes.default{end}", None) for end in ("", ".svc", ".svc.cluster.local")),
        }
    return found


def _database(dsn: str) -> set[Endpoint]:
    """Every host of a libpq connection string; a directory is a Unix socket, which no URL names."""
    from psycopg.conninfo import conninfo_to_dict

    settings = conninfo_to_dict(dsn)
    hosts = str(settings.get("host") or "").split(",") + str(settings.get("hostaddr") or "").split(",")
    ports = str(settings.get("port") or 5432).split(",")
    numbers = {int(port or 5432) for port in ports}
    return {(host, port) for host in hosts if host and not host.startswith(("/", "@")) for port in numbers}


class OwnServices:
    """Their names and the addresses that these resolve to."""

    def __init__(self, found: Iterable[Endpoint] = ()) -> None:
        self._endpoints = frozenset((host.lower().strip("[]").rstrip("."), port) for host, port in found)
        self._literal = {(ip, port) for host, port in self._endpoints if (ip := _address(host)) is not None}
        self._names = {(host, port) for host, port in self._endpoints if _address(host) is None}
        self._resolved: dict[Endpoint, set[tuple[Address, int | None]]] = {}
        self._looked = float("-inf")
        self._lock = asyncio.Lock()

    def names(self, host: str, port: int | None) -> bool:
        """Whether the host of a URL is one of them by name."""
        name = host.lower().rstrip(".")
        return (name, port) in self._names or (name, None) in self._names

    def covers(self, address: str, port: int) -> bool:
        """Whether an address and port are those of one of them."""
        ip = _address(address)
        if ip is None:
            return False
        known = self._literal.union(*self._resolved.values())
        return (ip, port) in known or (ip, None) in known

    @property
    def stale(self) -> bool:
        """Whether ``refresh`` is due."""
        return bool(self._names) and time.monotonic() - self._looked > FRESH

    async def refresh(self, lookup: Callable[[str, int], Awaitable[list[str]]]) -> None:
        """Look the names up again. Where that fails, what was known stays."""
        async with self._lock:
            if not self.stale:
                return
            for host, port in self._names:
                try:
                    addresses = await lookup(host, port or 443)
                except OSError:  # what does not resolve cannot be reached by that name, and the old addresses stay
                    continue
                self._resolved[host, port] = {(ip, port) for text in addresses if (ip := _address(text)) is not None}
            self._looked = time.monotonic()


def _address(text: str) -> Address | None:
    try:
        return plain_address(ip_address(text))
    except ValueError:
        return None
