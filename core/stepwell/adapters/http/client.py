"""The HTTP client of ``httpCall``: aiohttp without its conveniences.

No cookies, no proxies from the environment, no redirects, no silent second try: an attempt is one exchange, and what
comes after it is decided by the engine.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Self

import aiohttp
from yarl import URL

from stepwell.adapters.http.body import Body
from stepwell.adapters.http.connector import (
    AddressRefusedError,
    Exchange,
    GuardedConnector,
    Lookup,
    current_exchange,
)
from stepwell.domain.http import Headers, HttpRequest, HttpResponse
from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from stepwell.adapters.http.guard import AddressPolicy

_OUR_BUSINESS = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)
_BROKEN = (TimeoutError, aiohttp.ClientError, OSError, ValueError, StepFailure)


class AiohttpClient:
    """Implements stepwell.domain.http.HttpClient; to be used as an async context manager in a running loop.

    Connections are pooled, and a pooled connection was checked by this client's policy: namespaces with different
    policies need different clients.
    """

    def __init__(self, policy: AddressPolicy, *, lookup: Lookup | None = None) -> None:
        self._policy = policy
        self._lookup = lookup
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=GuardedConnector(self._policy, self._lookup),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_NO_TIMEOUT,
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=_OUR_BUSINESS,
        )
        # aiohttp repeats idempotent requests by itself on a lost connection; here every attempt is one request.
        self._session._retry_connection = False  # noqa: SLF001 - there is no public switch
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, request: HttpRequest, *, seconds: float, max_bytes: int) -> HttpResponse:
        """Send one request, as the protocol says."""
        if self._session is None:
            raise RuntimeError("the HTTP client is not open")
        exchange = Exchange()
        token = current_exchange.set(exchange)
        try:
            return await _exchange(self._session, request, exchange, seconds, max_bytes)
        finally:
            current_exchange.reset(token)


async def _exchange(
    session: aiohttp.ClientSession, request: HttpRequest, exchange: Exchange, seconds: float, max_bytes: int
) -> HttpResponse:
    response: aiohttp.ClientResponse | None = None
    body: Body | None = None
    failure: StepFailure | None = None
    try:
        async with asyncio.timeout(seconds):
            response = await session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=request.headers,
                data=request.body,
                allow_redirects=False,
            )
            body = Body(response.headers.get("Content-Encoding", ""), max_bytes)
            await body.read(response.content)
    except _BROKEN as exc:
        failure = _failure(exc, seconds, sent=exchange.sent)
        if response is None:
            raise failure from exc
    finally:
        if response is not None:
            response.close()
    return HttpResponse(response.status, response.reason or "", _headers(response), bytes(body or b""), failure)


def _headers(response: aiohttp.ClientResponse) -> Headers:
    return tuple((name.lower(), value) for name, value in response.headers.items())


def _failure(exc: BaseException, seconds: float, *, sent: bool) -> StepFailure:
    """Re-type what aiohttp raises. The order matters: its classes are each other's children."""
    if isinstance(exc, StepFailure):
        return exc
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    if isinstance(cause, AddressRefusedError):
        return StepFailure("AddressNotAllowed", str(cause), sent=False, final=True)
    if isinstance(exc, TimeoutError):
        where = "no complete answer" if sent else "no connection"
        return StepFailure("Timeout", f"{where} within {seconds:g} s", kind="Timeout", sent=sent)
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return _network("NameNotResolved", f"the host name does not resolve: {_plain(cause)}", sent=False)
    if isinstance(exc, (aiohttp.ClientSSLError, ssl.SSLError)) or isinstance(cause, ssl.SSLError):
        return _network("TlsFailed", f"no secure connection: {_plain(cause)}", sent=sent)
    if isinstance(exc, aiohttp.ClientConnectorError):
        return _network("ConnectionFailed", f"no connection: {_plain(cause)}", sent=False)
    return _later_failure(exc, sent=sent)


def _later_failure(exc: BaseException, *, sent: bool) -> StepFailure:
    if isinstance(exc, aiohttp.ClientPayloadError):
        return _network("ConnectionLost", "the answer broke off before its end", sent=sent)
    if isinstance(exc, aiohttp.ClientResponseError):
        why = " ".join(exc.message.split())[:200]
        return StepFailure("InvalidResponse", f"the answer is not valid HTTP: {why}", sent=sent)
    if isinstance(exc, ValueError):
        return StepFailure("InvalidRequest", f"the request cannot be sent: {exc}", sent=sent, final=True)
    return _network("ConnectionLost", f"the connection was lost before the answer: {_plain(exc)}", sent=sent)


def _network(reason: str, message: str, *, sent: bool) -> StepFailure:
    return StepFailure(reason, message, kind="Network", sent=sent)


def _plain(exc: BaseException) -> str:
    return (exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)) or type(exc).__name__
