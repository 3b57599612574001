"""The port for operations: its routes, its answers, and clients that are slow or many."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from http_servers import unused_port
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from waiting import eventually

from stepwell.domain.errors import UnavailableError
from stepwell.metrics import serving as health
from stepwell.metrics.serving import measure_lag, serving
from stepwell.settings import OperationsSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from prometheus_client.core import Metric

MISSING: dict[str, str] = {}


class Seen(Collector):
    """Counts how often it was read."""

    reads = 0

    def collect(self) -> Iterator[Metric]:
        self.reads += 1
        yield GaugeMetricFamily("stepwell_reads", "Reads.", value=self.reads)


@asynccontextmanager
async def served(missing: dict[str, str] = MISSING) -> AsyncIterator[int]:
    registry, port = CollectorRegistry(), unused_port()
    registry.register(Seen())
    async with serving(OperationsSettings(port, "127.0.0.1"), registry, lambda: missing):
        yield port


async def ask(port: int, path: str, method: str = "GET", more: bytes = b"") -> tuple[int, bytes, bytes]:
    """Status, head and body of the answer; the connection is closed by the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\n".encode() + more + b"\r\n")
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_health(method: str) -> None:
    async with served() as port:
        status, _, body = await ask(port, "/healthz", method)
        assert (status, body) == (200, b"ok\n" if method == "GET" else b"")


async def test_readiness_names_what_is_missing() -> None:
    missing = {"heartbeat": "too old"}
    async with served(missing) as port:
        status, head, body = await ask(port, "/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "missing": missing})
        assert b"application/json" in head
        missing.clear()
        status, _, body = await ask(port, "/readyz?verbose")
        assert (status, json.loads(body)) == (200, {"ready": True, "missing": {}})


async def test_metrics_are_read_once_for_many_who_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FRESH", 3600.0)
    async with served() as port:
        answers = await asyncio.gather(*[ask(port, "/metrics") for _ in range(10)])
        assert {(status, body) for status, _, body in answers} == {
            (200, b"# HELP stepwell_reads Reads.\n# TYPE stepwell_reads gauge\nstepwell_reads 1.0\n")
        }
        assert b"text/plain; version=0.0.4; charset=utf-8" in answers[0][1]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("POST", "/metrics", 405)])
async def test_nothing_else_is_there(method: str, path: str, status: int) -> None:
    async with served() as port:
        assert (await ask(port, path, method))[0] == status


async def test_a_request_that_is_too_large_is_refused() -> None:
    async with served() as port:
        assert (await ask(port, "/healthz", more=b"X: " + b"x" * 10_000 + b"\r\n"))[0] == 400


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nX: 1\r\n"])
async def test_who_is_slow_loses_the_connection(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONNECTION_TIME", 0.05)
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_more_connections_than_are_served_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONNECTIONS", 2)
    async with served() as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in held:
            writer.write(b"GET /")
        reader, refused = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(health.CONNECTION_TIME / 2):
            assert await reader.read() == b""
        for writer in (refused, *(writer for _, writer in held)):
            writer.close()
            await writer.wait_closed()
        assert await eventually(lambda: tried(port)) == 200


async def tried(port: int) -> int:
    try:
        return (await ask(port, "/healthz"))[0]
    except (IndexError, ConnectionError):
        return 0


async def test_a_port_that_is_taken_is_named_with_the_way_out() -> None:
    async with served() as port:
        expected = rf"on 127\.0\.0\.1 port {port}: .+; set STEPWELL_METRICS_PORT to a free port, or to 0"
        with pytest.raises(UnavailableError, match=expected):
            async with serving(OperationsSettings(port, "127.0.0.1"), CollectorRegistry(), dict):
                raise AssertionError("it must not begin")


async def test_port_0_serves_nothing() -> None:
    async with serving(OperationsSettings(0), CollectorRegistry(), dict):
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_the_lag_of_the_loop_is_what_a_sleep_lasted_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PERIOD", 0.0)
    seen: asyncio.Queue[float] = asyncio.Queue()
    task = asyncio.ensure_future(measure_lag(seen.put_nowait))
    assert await seen.get() >= 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
