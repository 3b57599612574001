"""The gateway's API over HTTP. Errors are what the gateway said, as errors of the command line."""

from __future__ import annotations

import asyncio
import re
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import orjson

from stepwell.domain.errors import StepwellError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

TIMEOUT = 30.0  # seconds
TRIES = 4  # of a call that may be repeated
PAUSE = 0.5  # seconds before the first repetition, doubled by each
LONGEST = 5.0  # seconds that a gateway's Retry-After is obeyed
MAX_KEY = 256  # bytes
BUSY = frozenset({429, 502, 503, 504})

_TOKEN = re.compile("[!-~]+")  # visible ASCII


class RefusedError(StepwellError):
    """The gateway refused a call."""

    exit_code = 2


class BusyError(UnavailableError):
    """The gateway, or what stands before it, said to come again."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a gateway is reached, how the caller is known there, and the namespace where none is named."""

    url: str
    token: str = field(repr=False)
    namespace: str = "default"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    id: str
    kind: str
    data: dict[str, Any]


class Client:
    """Calls below ``/api/v1/namespaces/{namespace}``. Raises RefusedError, UnavailableError."""

    def __init__(self, http: httpx.AsyncClient, namespace: str) -> None:
        self._http = http
        self.namespace = namespace

    async def get(self, path: str, **query: object) -> dict[str, Any]:
        """The document of a path."""
        params = {name: str(value) for name, value in query.items() if value is not None}
        return _document(await self._call("GET", path, params=params))

    async def post(self, path: str, body: Mapping[str, object] | None = None, key: str | None = None) -> dict[str, Any]:
        """What a call that writes answers. It is repeated where its answer was lost: its key makes that safe."""
        sent = str(uuid.uuid4()) if key is None else _checked_key(key)
        headers = {"Content-Type": b"application/json", "Idempotency-Key": sent.encode()}
        return _document(await self._call("POST", path, content=orjson.dumps(body or {}), headers=headers))

    async def events(self, run_id: str) -> AsyncIterator[Event]:
        """What happens to a run, until it has ended; a connection that is lost is made again where it broke off."""
        last = ""
        while True:
            try:
                async for event in self._stream(f"/runs/{run_id}/events", last):
                    last = event.id
                    yield event
                    if last.endswith(".end"):
                        return
            except httpx.TransportError as exc:
                if not last:
                    raise _away(exc) from exc
            except BusyError:  # one gateway went away, and the next is not there yet
                if not last:
                    raise
            await asyncio.sleep(PAUSE)

    async def _stream(self, path: str, last: str) -> AsyncIterator[Event]:
        headers = {"Last-Event-ID": last} if last else {}
        timeout = httpx.Timeout(TIMEOUT, read=4 * TIMEOUT)  # a gateway sends a sign of life every 15 s
        async with self._http.stream("GET", self._path(path), headers=headers, timeout=timeout) as response:
            if response.status_code != httpx.codes.OK:
                await response.aread()
                raise _refusal(response)
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(":")
                if line:
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    yield Event(fields.get("id", ""), fields.get("event", ""), orjson.loads(fields["data"]))
                    fields = {}

    async def _call(self, method: str, path: str, **more: Any) -> httpx.Response:
        for left in range(TRIES - 1, -1, -1):
            try:
                response = await self._http.request(method, self._path(path), **more)
            except httpx.TransportError as exc:
                if not left:
                    raise _away(exc) from exc
                pause = None
            else:
                if response.status_code not in BUSY or not left:
                    break
                pause = _asked_pause(response)
            await asyncio.sleep(PAUSE * 2 ** (TRIES - 1 - left) if pause is None else pause)
        if response.is_success:
            return response
        raise _refusal(response)

    def _path(self, path: str) -> str:
        return f"/api/v1/namespaces/{quote(self.namespace, safe='')}{path}"


@asynccontextmanager
async def connected(server: Server, namespace: str | None = None) -> AsyncIterator[Client]:
    """A client for the block. Raises UsageError for a token that nobody can have."""
    if not _TOKEN.fullmatch(server.token):
        raise UsageError("the bearer token holds a character that no token has; is it the right file or variable?")
    headers = {"Authorization": f"Bearer {server.token}", "Accept": "application/json"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=TIMEOUT) as http:
        yield Client(http, namespace or server.namespace)


def _checked_key(key: str) -> str:
    if not 0 < len(key.encode("utf-8", "surrogatepass")) <= MAX_KEY or not key.isprintable() or key != key.strip():
        message = f"--key: a key has 1 to {MAX_KEY} bytes of printable text, without space around it"
        raise UsageError(message)
    return key


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        value = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        message = f"{response.request.url} answered with something that is no document of Stepwell's API"
        raise UnavailableError(message)
    return value


def _refusal(response: httpx.Response) -> StepwellError:
    try:
        problem = orjson.loads(response.content)
        said = str(problem.get("detail") or problem["title"])
    except (orjson.JSONDecodeError, KeyError, AttributeError):
        said = response.reason_phrase
    message = f"the gateway answered {response.status_code}: {said}"
    if response.status_code < 500:
        return RefusedError(message)
    return BusyError(message) if response.status_code in BUSY else UnavailableError(message)


def _away(error: httpx.TransportError) -> UnavailableError:
    where = error.request.url.copy_with(raw_path=b"/") if error._request is not None else "the gateway"  # noqa: SLF001
    return UnavailableError(f"{where} cannot be reached: {str(error) or type(error).__name__}")


def _asked_pause(response: httpx.Response) -> float | None:
    asked = response.headers.get("retry-after", "")
    return min(float(asked), LONGEST) if asked.isdecimal() else None
