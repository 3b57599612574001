"""Connections that only ever reach allowed addresses.

Two doors of aiohttp, both public, are guarded. The resolver looks a name up once and refuses it unless *all* of its
addresses are allowed. The socket factory sees the very address that is connected to next, also where the host of a URL
is a literal address, which no resolver sees. So there is no moment between the check and the use.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from stepwell.adapters.http.guard import ALLOWABLE, AddressPolicy, refusal
from stepwell.adapters.http.protocol import BoundedProtocol

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import AddrInfoType, Connection
    from aiohttp.tracing import Trace

    from stepwell.adapters.http.own_services import OwnServices
    from stepwell.adapters.http.proxy import Proxy

MAX_CONNECTIONS = 500  # as many as a worker's effects in flight
IDLE_SECONDS = 2.0  # shorter than the common servers' own (gunicorn 2, uvicorn and Node 5): see docs/adr/0003
DNS_CACHE_SECONDS = 5
LOOKUP_THREADS = 16

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host name. Raises OSError."""


class AddressRefusedError(OSError):
    """The address may not be reached. An OSError, because aiohttp lets nothing else through its connect."""


@dataclass(slots=True)
class Exchange:
    """``sent`` is False only while there is no connection yet: until then no byte of the request left.

    ``listed``: the policy names the host of the URL.
    """

    sent: bool = True
    listed: bool = False


current_exchange: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)


class MarkingConnector(TCPConnector):
    """A pool of connections that tells an exchange when it has one."""

    def __init__(self, lookup: Lookup | None, **options: Any) -> None:
        self._lookups = ThreadPoolExecutor(LOOKUP_THREADS, "stepwell-dns")
        self.lookup = lookup or self._system_lookup
        super().__init__(
            ttl_dns_cache=DNS_CACHE_SECONDS, keepalive_timeout=IDLE_SECONDS, limit=MAX_CONNECTIONS, **options
        )
        self._factory = partial(_protocol, loop=self._loop)

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        """A connection from the pool or a new one."""
        exchange = current_exchange.get()
        if exchange is None:
            return await super().connect(req, traces, timeout)
        exchange.sent = False
        await self._prepare()
        connection = await super().connect(req, traces, timeout)
        exchange.sent = True
        return connection

    async def _prepare(self) -> None:
        """What must be known before a connection is chosen."""

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close every connection; look-ups under way are left to end by themselves."""
        self._lookups.shutdown(wait=False, cancel_futures=True)
        await super().close(abort_ssl=abort_ssl)

    async def _system_lookup(self, host: str, port: int) -> list[str]:
        # A pool of our own: uvloop resolves in four threads that the whole process shares.
        return await asyncio.get_running_loop().run_in_executor(self._lookups, _getaddrinfo, host, port)


def _protocol(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return BoundedProtocol(loop)


class GuardedConnector(MarkingConnector):
    """A pool of connections to allowed addresses."""

    def __init__(self, policy: AddressPolicy, own: OwnServices, lookup: Lookup | None = None) -> None:
        self._policy = policy
        self._own = own
        super().__init__(lookup, resolver=_Resolver(self._allowed), socket_factory=self._open_socket)

    async def _prepare(self) -> None:
        if self._own.stale:  # here, because a literal address meets no resolver
            await self._own.refresh(self.lookup)

    async def _allowed(self, host: str, port: int) -> list[str]:
        if self._own.names(host, port):
            message = f"{host}:{port} is one of Stepwell's own services"
            raise AddressRefusedError(message)
        addresses = await self.lookup(host, port)
        for address in addresses:
            self._check(address, port, host)
        return addresses

    def _open_socket(self, info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        self._check(str(sockaddr[0]), int(sockaddr[1]))
        return socket.socket(family, kind, protocol)

    def _check(self, address: str, port: int, host: str | None = None) -> None:
        exchange = current_exchange.get()
        why = refusal(address, self._policy, listed=exchange is not None and exchange.listed)
        hint = "; httpCall reaches public addresses only"
        if why is None and self._own.covers(address, port):
            why, hint = "one of Stepwell's own services", ""
        if why is None:
            return
        if why in ALLOWABLE:
            hint += ", and what the annotation stepwell.dev/http-allow of the namespace lists"
        subject = address if host is None else f"{host} resolves to {address}, which"
        message = f"{subject} is {why}{hint}"
        raise AddressRefusedError(message)


class ProxyConnector(MarkingConnector):
    """A pool of connections to the proxy, or through it: nothing else is ever resolved or connected to."""

    def __init__(self, proxy: Proxy, lookup: Lookup | None = None) -> None:
        self._proxy = proxy
        super().__init__(lookup, resolver=_Resolver(self._proxy_only))

    async def _proxy_only(self, host: str, port: int) -> list[str]:
        if (host, port) != (self._proxy.host, self._proxy.port):
            raise AddressRefusedError("everything goes through the proxy")
        return await self.lookup(host, port)


class _Resolver(AbstractResolver):
    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp's signature
    ) -> list[ResolveResult]:
        return [_result(host, address, port) for address in await self._lookup(host, port)]

    async def close(self) -> None:
        pass


def _getaddrinfo(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except UnicodeError as exc:
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {exc}") from exc
    return [_with_zone(info[4]) for info in found]


def _with_zone(sockaddr: tuple[object, ...]) -> str:
    address = str(sockaddr[0])
    return f"{address}%{sockaddr[3]}" if len(sockaddr) == 4 and sockaddr[3] and "%" not in address else address


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
