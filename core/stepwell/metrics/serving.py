"""The port for operations: ``/metrics``, ``/healthz``, ``/readyz``. None of them asks the database or Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from stepwell.domain.errors import UnavailableError
from stepwell.settings import OperationsSettings

CONNECTIONS = 32  # at once; more are refused
CONNECTION_TIME = 10.0  # seconds that one may last: a request and its answer
FRESH = 0.5  # seconds in which a second scrape gets the answer of the first
MAX_HEADERS = 8_190  # bytes
TEXT = "text/plain; version=0.0.4; charset=utf-8"
PERIOD = 1.0  # seconds between two looks at the lag of the event loop

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(
    settings: OperationsSettings, registry: CollectorRegistry, missing: Callable[[], dict[str, str]]
) -> AsyncIterator[None]:
    """Serve while the block runs, unless the port is 0. Raises UnavailableError where it cannot be bound."""
    if settings.port == 0:
        yield
        return
    runner = web.ServerRunner(_Server(_Routes(registry, missing)), shutdown_timeout=0.5)
    await runner.setup()
    try:
        await _bind(runner, settings)
        log.info("metrics and health are served on %s port %d", settings.address, settings.port)
        yield
    finally:
        await runner.cleanup()


async def measure_lag(observe: Callable[[float], None]) -> None:
    """Tell by how much a sleep lasted too long, for ever."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(PERIOD)
        observe(max(0.0, time.monotonic() - began - PERIOD))


async def _bind(runner: web.ServerRunner, settings: OperationsSettings) -> None:
    try:
        await web.TCPSite(runner, settings.address, settings.port).start()
    except OSError as exc:
        place = f"{settings.address} port {settings.port}"
        message = (
            f"metrics and health cannot be served on {place}: {exc.strerror or exc}; set STEPWELL_METRICS_PORT to a "
            "free port, or to 0 to serve none"
        )
        raise UnavailableError(message) from exc


class _Server(web.Server):
    """Few connections, each for one request and a short time: who is slow, or comes in numbers, holds nothing."""

    def __init__(self, routes: _Routes) -> None:
        super().__init__(
            routes.answer,
            access_log=None,
            max_line_size=MAX_HEADERS,
            max_field_size=MAX_HEADERS,
            lingering_time=0,
        )

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]  # a refusal is no request handler
        if len(self.connections) >= CONNECTIONS:
            return _Refusal()
        handler = super().__call__()
        asyncio.get_running_loop().call_later(CONNECTION_TIME, handler.force_close)
        return handler


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Routes:
    def __init__(self, registry: CollectorRegistry, missing: Callable[[], dict[str, str]]) -> None:
        self._registry = registry
        self._missing = missing
        self._rendering = asyncio.Lock()
        self._shown = b""
        self._shown_at = float("-inf")

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request."""
        if request.method not in {"GET", "HEAD"}:
            response = web.Response(status=405, headers={"Allow": "GET, HEAD"})
        elif request.path == "/metrics":
            response = web.Response(body=await self._metrics(), headers={"Content-Type": TEXT})
        elif request.path == "/healthz":
            response = web.Response(text="ok\n")  # that it is said shows that the event loop turns
        elif request.path == "/readyz":
            response = self._readiness()
        else:
            response = web.Response(status=404, text="/metrics, /healthz and /readyz are here\n")
        response.force_close()
        return response

    def _readiness(self) -> web.Response:
        missing = self._missing()
        body = orjson.dumps({"ready": not missing, "missing": missing}, option=orjson.OPT_APPEND_NEWLINE)
        return web.Response(status=503 if missing else 200, body=body, content_type="application/json")

    async def _metrics(self) -> bytes:
        """In a thread: with thousands of series it takes a tenth of a second, in which runs go on."""
        async with self._rendering:
            if time.monotonic() - self._shown_at > FRESH:
                self._shown = await asyncio.to_thread(generate_latest, self._registry)
                self._shown_at = time.monotonic()
            return self._shown
