"""One call to the API server: JSON in, JSON out, a status.

The client's models and its ApiException are passed by: a model that does not fit fails in words that quote what it was
built of, and the exception carries the answer's headers and body, which may be a Secret. What is raised here repeats nothing
of an answer, and no exception of a library is chained behind it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from stepwell.adapters.kube.client import CALL_TIMEOUT
from stepwell.domain.errors import UnavailableError

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

MAX_BYTES = 8 << 20  # of an answer; a Secret has 1 MiB, in Base64 and with what managers noted about it
_HEADERS = {"Accept": "application/json"}
_AUTHENTICATION = ["BearerToken"]

Observe = Callable[[str, str], None]
"""Told the kind of each call and how it ended: a status, ``timeout`` or ``error``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``document`` is empty where the status is no success."""

    status: int
    document: dict[str, Any] = field(repr=False)


class KubeCalls:
    """Calls over one client, each within ``seconds``."""

    def __init__(self, client: ApiClient, *, seconds: float = CALL_TIMEOUT, observe: Observe = lambda *_: None) -> None:
        self._client = client
        self._seconds = seconds
        self._observe = observe

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._client.configuration.host)

    async def get(self, kind: str, path: str) -> Answer:
        """Read one object. ``kind`` is for the metric and for messages. Raises UnavailableError."""
        return await self._call(kind, "GET", path, None)

    async def ask(self, kind: str, path: str, body: dict[str, Any]) -> Answer:
        """Create a review, which the server answers and does not keep, or an object of a name that nobody else takes: the
        call may be repeated. Raises UnavailableError.
        """
        return await self._call(kind, "POST", path, body)

    async def _call(self, kind: str, method: str, path: str, body: dict[str, Any] | None) -> Answer:
        try:
            async with asyncio.timeout(self._seconds):
                status, content = await self._exchange(method, path, body)
            code = str(status)
            why = ""
        except TimeoutError:
            code, why = "timeout", f"no answer within {self._seconds:g} s"
        except Exception as exc:  # noqa: BLE001 - the client's many ways to fail, also while it reads its credentials
            code, why = "error", _shown(exc)
        self._observe(kind, code)
        if why:
            raise away(kind, why)
        if status >= 300:
            if status == 429 or status >= 500:
                raise away(kind, f"it answered {status}")
            return Answer(status, {})
        document = _read(content)
        if document is None:
            raise away(kind, "its answer is not a JSON object")
        return Answer(status, document)

    async def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        try:
            return await self._send(method, path, body)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # a connection that was idle for too long; neither a read nor a review changes anything, nor a name that is taken
            return await self._send(method, path, body)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        client = self._client
        prepared = await client.param_serialize(
            method, path, header_params=dict(_HEADERS), body=body, auth_settings=_AUTHENTICATION
        )
        limit = aiohttp.ClientTimeout(total=self._seconds)
        response: aiohttp.ClientResponse = (await client.call_api(*prepared, _request_timeout=limit)).response
        async with response:
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > MAX_BYTES:
                    message = f"its answer has more than {MAX_BYTES:,} bytes"
                    raise _TooLargeError(message)
            return response.status, bytes(content)


class _TooLargeError(Exception):
    """An answer beyond all bounds."""


def away(kind: str, why: str) -> UnavailableError:
    """What a call that got no usable answer is to its caller."""
    message = f"the {kind} cannot be asked for: the API server is not available: {why}"
    return UnavailableError(message)


def _read(content: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:  # it holds the whole text, so it must not be chained
        return None
    return found if isinstance(found, dict) else None


def _shown(exc: Exception) -> str:
    """Only what is about the connection; what is about an answer may quote it."""
    if isinstance(exc, _TooLargeError | aiohttp.ClientConnectorError):
        return str(exc)
    if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError) and exc.strerror:
        return exc.strerror
    return type(exc).__name__
