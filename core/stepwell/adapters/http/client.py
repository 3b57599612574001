"""The HTTP client of ``httpCall``: aiohttp without its conveniences.

No cookies, no proxies from the environment, no redirects, no silent second try: an attempt is one exchange, and what
comes after it is decided by the engine.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from yarl import URL

from stepwell.adapters.http.body import Body
from stepwell.adapters.http.connector import (
    Exchange,
    GuardedConnector,
    Lookup,
    MarkingConnector,
    ProxyConnector,
    current_exchange,
)
from stepwell.adapters.http.failures import failure_of
from stepwell.adapters.http.own_services import OwnServices
from stepwell.adapters.http.proxy import Proxy, name_refusal
from stepwell.adapters.http.tls import context_of
from stepwell.domain.http import Headers, HttpRequest, HttpResponse
from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from stepwell.adapters.http.guard import AddressPolicy

MAX_KNOWN = 1024  # hosts

_OUR_BUSINESS = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)
_BROKEN = (TimeoutError, aiohttp.ClientError, OSError, ValueError, StepFailure)


class AiohttpClient:
    """Implements stepwell.domain.http.HttpClient; to be used as an async context manager in a running loop.

    Connections are pooled, and a pooled connection was checked by this client's policy: namespaces with different
    policies need different clients (stepwell.adapters.http.clients has them). With ``proxy``, all goes through it but
    what the policy allows by name or network. ``own`` are services that nothing reaches.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        lookup: Lookup | None = None,
        proxy: Proxy | None = None,
        own: OwnServices | None = None,
    ) -> None:
        self._policy = policy
        self._lookup = lookup
        self._proxy = proxy
        self._own = own or OwnServices()
        self._listed: dict[tuple[str | None, int | None], bool] = {}
        self._stack = AsyncExitStack()
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._direct = await self._session(GuardedConnector(self._policy, self._own, self._lookup))
        if self._proxy is not None:
            self._proxied = await self._session(ProxyConnector(self._proxy, self._lookup))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._direct = self._proxied = None
        await self._stack.aclose()

    async def _session(self, connector: MarkingConnector) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_NO_TIMEOUT,
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=_OUR_BUSINESS,
        )
        # aiohttp repeats idempotent requests by itself on a lost connection; here every attempt is one request.
        session._retry_connection = False  # noqa: SLF001 - there is no public switch
        return await self._stack.enter_async_context(session)

    async def send(self, request: HttpRequest, *, seconds: float, max_bytes: int) -> HttpResponse:
        """Send one request, as the protocol says."""
        if self._direct is None:
            raise RuntimeError("the HTTP client is not open")
        url = URL(request.url, encoded=True)
        listed = self._lists(url)
        if request.confidential and url.scheme != "https" and not listed:
            raise _plain_http(url)
        session = self._direct
        options: dict[str, Any] = {"headers": request.headers, "ssl": context_of(request.ca)}
        if self._proxied is not None and not listed:
            session = self._proxied
            options |= self._through_proxy(request, url)
        exchange = Exchange(listed=listed)
        token = current_exchange.set(exchange)
        try:
            return await _exchange(session, request, url, options, exchange, seconds, max_bytes)
        finally:
            current_exchange.reset(token)

    def _lists(self, url: URL) -> bool:
        """Whether the policy names the host; kept, because it is asked at every request."""
        place = (url.raw_host, url.port)
        found = self._listed.get(place)
        if found is None:
            if len(self._listed) >= MAX_KNOWN:
                self._listed.clear()
            found = self._listed[place] = self._policy.lists(*place)
        return found

    def _through_proxy(self, request: HttpRequest, url: URL) -> dict[str, Any]:
        """CONNECT for https, so that the proxy sees no header of ours; for http the request itself, in absolute form."""
        assert self._proxy is not None  # noqa: S101 - for the type checker
        why = name_refusal(url.raw_host or "", url.port, self._policy, self._own)
        if why is not None:
            message = f"{url.raw_host} is {why}; httpCall reaches public addresses only"
            raise StepFailure("AddressNotAllowed", message, sent=False, final=True)
        given = {"Proxy-Authorization": self._proxy.authorization} if self._proxy.authorization else {}
        headers = request.headers if url.scheme == "https" else (*request.headers, *given.items())
        return {"headers": headers, "proxy": self._proxy.url, "proxy_headers": given}


def _plain_http(url: URL) -> StepFailure:
    message = (
        f"a credential goes over https; in plain http not to {url.raw_host}:{url.port}, which is not allowed for the"
        " namespace (annotation stepwell.dev/http-allow)"
    )
    return StepFailure("HostNotAllowed", message, sent=False, final=True)


async def _exchange(
    session: aiohttp.ClientSession,
    request: HttpRequest,
    url: URL,
    options: dict[str, Any],
    exchange: Exchange,
    seconds: float,
    max_bytes: int,
) -> HttpResponse:
    response: aiohttp.ClientResponse | None = None
    body: Body | None = None
    failure: StepFailure | None = None
    try:
        async with asyncio.timeout(seconds):
            response = await session.request(
                request.method,
                url,
                data=request.body,
                allow_redirects=False,
                **options,
            )
            body = Body(response.headers.get("Content-Encoding", ""), max_bytes)
            await body.read(response.content)
    except _BROKEN as exc:
        failure = failure_of(exc, seconds, sent=exchange.sent)
        if response is None:
            raise failure from exc
    finally:
        if response is not None:
            response.close()
    return HttpResponse(response.status, response.reason or "", _headers(response), bytes(body or b""), failure)


def _headers(response: aiohttp.ClientResponse) -> Headers:
    return tuple((name.lower(), value) for name, value in response.headers.items())
