"""Local mode: no cluster is asked, so the gateway talks to this machine only, and to no page of a browser but its own.

A name that an attacker lets point at 127.0.0.1 (DNS rebinding) shows in ``Host``, and a page of another site in ``Origin``:
both are turned away before anything is read, hooks included. The API further takes its writes as JSON only, which no form
can send, and wants the token that `stepwell dev` wrote into its folder.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepwell.domain.access import Identity, UnauthenticatedError
from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

USER = "local"
_READS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class LocalAccess:
    """Implements Access: who shows the token may do everything."""

    token: str = field(repr=False)

    async def identify(self, token: str) -> Identity:
        """Raises UnauthenticatedError."""
        if not hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self.token.encode()):
            raise UnauthenticatedError("this is not the token that `stepwell dev` wrote for this run of it")
        return Identity(USER)

    async def allowed(self, identity: Identity, verb: str, subresource: str, namespace: str, name: str) -> bool:  # noqa: ARG002
        """Everything."""
        return identity.user == USER


class NoAccess:
    """Where nobody is known: the gateway runs neither in a cluster nor in local mode."""

    async def identify(self, token: str) -> Identity:  # noqa: ARG002
        """Raises UnauthenticatedError."""
        raise UnauthenticatedError("this gateway has no API server to ask whose token it is")

    async def allowed(self, identity: Identity, verb: str, subresource: str, namespace: str, name: str) -> bool:  # noqa: ARG002
        """No."""
        return False


class LocalOnly:
    """ASGI middleware around all routes of a local gateway."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        problem = refusal(scope) if scope["type"] == "http" else None
        await (self._app if problem is None else problem.response())(scope, receive, send)


def refusal(scope: Scope) -> Problem | None:
    """Why a request to a local gateway is turned away; None: it is not."""
    headers = _Headers(scope)
    client = scope.get("client")
    if client is None or not _is_loopback(client[0]):
        return Problem(403, "local mode serves this machine only")
    hosts = headers.all(b"host")
    if len(hosts) != 1 or not _is_local_name(_host(hosts[0])):
        return Problem(403, "local mode is addressed as localhost or 127.0.0.1")
    if any(origin != f"http://{hosts[0]}" for origin in headers.all(b"origin")):
        return Problem(403, "pages of other origins may not call this gateway")
    if scope["path"].startswith("/api") and scope["method"] not in _READS and not headers.says_json():
        return Problem(415, "in local mode every call that writes is sent as application/json")
    return None


class _Headers:
    def __init__(self, scope: Scope) -> None:
        self._headers = scope["headers"]

    def all(self, name: bytes) -> list[str]:
        return [value.decode("latin-1").strip().lower() for key, value in self._headers if key == name]

    def says_json(self) -> bool:
        return [v.partition(";")[0].strip() for v in self.all(b"content-type")] == ["application/json"]


def _host(host: str) -> str:
    """Without the port."""
    return host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]


def _is_local_name(host: str) -> bool:
    return host == "localhost" or _is_loopback(host)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
