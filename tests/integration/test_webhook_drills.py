"""Webhooks under faults: nobody who was answered is forgotten, nobody who asks again is served twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from gateways import NAMESPACE, gateway, github, hmac_of, trigger
from http_servers import unused_port
from raw_client import RawClient, UnansweredError, read_answer
from waiting import eventually

from stepwell.actions.registry import default_actions
from stepwell.adapters.postgres.migrate import migrate
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.settings import Settings
from stepwell_gateway import connections
from stepwell_worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateways import Gateway

    from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

STEPWELL = Path(sys.executable).with_name("stepwell")
PATH = f"/hooks/{NAMESPACE}/welcome/hook"
KEYED = trigger(idempotencyKey="{{ body.id }}")
START = 60.0  # seconds that a process may take to serve on a busy machine


@asynccontextmanager
async def process(dsn: str, redis_url: str, **settings: str) -> AsyncIterator[tuple[subprocess.Popen[bytes], int]]:
    """``stepwell gateway`` as a process of its own, and its port, once it serves."""
    port = unused_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STEPWELL_", "KUBE"))}
    environment |= {"DATABASE_URL": dsn, "REDIS_URL": redis_url, "PORT": str(port), "STEPWELL_METRICS_PORT": "0"}
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen([STEPWELL, "gateway"], env=environment | settings, stderr=log)  # noqa: ASYNC220
        try:
            await eventually(lambda: _serves(started, port), START)
            yield started, port
        finally:
            if started.poll() is None:
                started.kill()
            started.wait(10)
            log.seek(0)
            assert b"Traceback" not in log.read()


def _serves(started: subprocess.Popen[bytes], port: int) -> bool:
    assert started.poll() is None, "the gateway ended"
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@asynccontextmanager
async def working(dsn: str, redis_url: str) -> AsyncIterator[None]:
    """A worker within this process."""
    settings = Settings(database_url=dsn, redis_url=redis_url)
    queue = ReadyQueue(redis_url, settings.redis_prefix)
    worker = Worker(settings, queue, default_actions())
    living = asyncio.ensure_future(worker.run())
    try:
        await asyncio.wait({living, asyncio.ensure_future(worker.started.wait())}, return_when=asyncio.FIRST_COMPLETED)
        yield
    finally:
        worker.stop()
        await living
        await queue.close()


async def _all_end(running: Gateway, count: int) -> None:
    def ends() -> bool:
        return running.rows("SELECT status, count(*) FROM runs GROUP BY status") == [("succeeded", count)]

    await eventually(ends, 20.0, pause=0.05)


# -- one delivery, one run ---------------------------------------------------------------------------------------------------


async def test_a_hundred_identical_deliveries_over_two_gateways_start_one_run(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as one, gateway(database, redis_url) as other:
        await one.apply(trigger(hmac_of(preset="GitHub")))
        body = b'{"action": "opened"}'
        headers = github(body, **{"x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"})
        answers = await asyncio.gather(*((one, other)[n % 2].post(body, headers=headers) for n in range(100)))
        assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 99}
        assert len({answer.json()["runId"] for answer in answers}) == 1
        assert one.count() == (1, 1, 1)


async def test_a_gateway_killed_between_commit_and_answer(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(KEYED)
        async with process(database, redis_url, STEPWELL_CRASH_AT="gateway_after_commit") as (killed, port):
            with pytest.raises(UnansweredError):
                await RawClient(port).post(PATH, b'{"id": "a"}')
            assert await asyncio.to_thread(killed.wait, 10) == -signal.SIGKILL
        assert running.count() == (1, 1, 1), "it was killed after the commit"
        again = await running.post(b'{"id": "a"}')
        assert again.status_code == 200
        assert running.rows("SELECT id::text FROM runs") == [(again.json()["runId"],)]


# -- parts that are away -----------------------------------------------------------------------------------------------------


async def test_without_redis_webhooks_are_accepted_and_runs_execute(database: str, own_valkey: EmbeddedValkey) -> None:
    url = own_valkey.url
    async with gateway(database, url) as running, working(database, url):
        await running.apply(trigger(rateLimit={"limit": 1000, "per": "1h"}))
        assert (await running.post()).status_code == 202
        await _all_end(running, 1)
        own_valkey.kill()
        began = time.monotonic()
        answers = [await running.post() for _ in range(20)]
        took = time.monotonic() - began
        assert {answer.status_code for answer in answers} == {202}
        assert took < 10, "nobody waits for a Redis that is away, each time"
        await _all_end(running, 21)


async def test_without_postgres_503_and_afterwards_nothing_is_lost_or_doubled(
    own_postgres: EmbeddedPostgres, redis_url: str
) -> None:
    dsn = own_postgres.dsn()
    await migrate(dsn)
    async with gateway(dsn, redis_url) as running:
        await running.apply(KEYED)
        answers: dict[int, list[httpx.Response]] = {}
        stop = asyncio.Event()

        async def sender(first: int) -> None:
            """Deliveries one after another, each repeated until it is accepted, as vendors do."""
            for number in range(first, 1_000_000, 4):
                got = answers.setdefault(number, [])
                while not got or got[-1].status_code == 503:
                    got.append(await running.post(b'{"id": "%d"}' % number))
                    if got[-1].status_code == 503:
                        await asyncio.sleep(0.05)
                if stop.is_set():
                    return

        senders = [asyncio.ensure_future(sender(n)) for n in range(4)]
        await eventually(lambda: len(answers) > 40)
        own_postgres.kill()
        refused = lambda: [a for got in answers.values() for a in got if a.status_code == 503]  # noqa: E731
        await eventually(lambda: len(refused()) >= 8, 20.0)
        own_postgres.start()
        seen = len(answers)
        await eventually(lambda: len(answers) > seen + 40, 20.0)
        stop.set()
        await asyncio.gather(*senders)
        assert {a.headers["retry-after"] for a in refused()} == {"5"}
        assert all(a.json()["title"] == "Service Unavailable" and "detail" not in a.json() for a in refused())
        accepted = {number: got[-1].json()["runId"] for number, got in answers.items()}
        assert {got[-1].status_code for got in answers.values()} <= {200, 202}
        stored = {row[0]: row[1] for row in running.rows("SELECT input_data->>'id', id::text FROM runs")}
        assert stored == {str(number): run_id for number, run_id in accepted.items()}


# -- clients that are slow, or many ------------------------------------------------------------------------------------------


async def _sent(port: int, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    return reader, writer


async def test_slow_clients_hold_nothing(database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a head, half a body, line breaks without end: all are told so and let go, while others are served."""
    monkeypatch.setattr("stepwell_gateway.serving.SWEEP", 0.05)
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\n".encode()
        slow = {
            "silence": b"",
            "a letter": b"P",
            "line breaks": b"\r\n\r\n",
            "half a head": head,
            "a head without end": head,
            "half a body": head + b"content-length: 100\r\n\r\n{",
            "half a chunk": head + b"transfer-encoding: chunked\r\n\r\n5\r\nab",
        }
        opened = {what: await _sent(running.port, sent) for what, sent in slow.items()}

        async def drip(writer: asyncio.StreamWriter) -> None:
            """One more header, again and again: that it goes on moving buys no time."""
            while not writer.is_closing():
                writer.write(b"x: y\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip(opened["a head without end"][1]))
        assert (await running.post()).status_code == 202
        monkeypatch.setattr(connections, "HEAD_TIME", 0.3)  # not before: on a busy machine the post may take longer
        for what, (reader, writer) in opened.items():
            if what.endswith(("body", "chunk")):  # a body has more time than a head
                monkeypatch.setattr(connections, "REQUEST_TIME", 0.1)
            async with asyncio.timeout(15):  # half of the time that a whole request has by default
                try:
                    answer, rest = await read_answer(reader), await reader.read()
                    assert (answer.status, answer.closes, rest) == (408, True, b""), what
                except ConnectionResetError:
                    assert what == "a head without end"  # TCP may drop an answer when more arrives after the end
            writer.close()
        dripping.cancel()
        assert running.count()[0] == 1
        assert running.context.bodies.held == 0


async def test_what_is_too_much_is_cut_while_it_comes(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, connections=3) as running:
        await running.apply(trigger())
        start = f"POST {PATH} HTTP/1.1\r\nhost: x\r\n".encode()
        cases = {
            "a long body": (start + b"content-length: 2000000\r\n\r\n", 413),
            "a body without length": (
                start + b"transfer-encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 65536 + b"\r\n",
                413,
            ),
            "a long head": (start + b"x: " + b"y" * 20_000 + b"\r\n\r\n", 431),
            "a head without end": (start + b"x: " + b"y" * 20_000, 431),
            "many headers": (start + b"x: y\r\n" * 100 + b"\r\n", 431),
            "no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
            "two lengths": (start + b"content-length: 1\r\ncontent-length: 2\r\n\r\n{}", 400),
            "length and chunks": (start + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        }
        for what, (sent, status) in cases.items():
            reader, writer = await _sent(running.port, sent)
            if what == "a body without length":
                for _ in range(17):
                    writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            answer = await read_answer(reader)
            assert answer.status == status, what
            assert answer.headers["content-type"] == "application/problem+json", what
            writer.close()
        assert running.context.bodies.held == 0
        await eventually(lambda: _is_served(running))


async def _is_served(running: Gateway) -> bool:
    return (await running.post()).status_code == 202


async def test_more_connections_than_allowed_are_told_so(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, connections=3) as running:
        held = [await _sent(running.port) for _ in range(3)]
        reader, writer = await _sent(running.port)
        answer = await read_answer(reader)
        assert (answer.status, answer.closes) == (503, True)
        for stream in (*(stream for _, stream in held), writer):
            stream.close()
        await running.apply(trigger())
        await eventually(lambda: _is_served(running))


# -- the end of a process ----------------------------------------------------------------------------------------------------


async def test_who_is_connected_at_the_end_gets_one_more_answer(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, last=1.0) as running:
        await running.apply(trigger())
        kept, fresh = RawClient(running.port), RawClient(running.port)
        assert not (await kept.post(PATH, b"{}")).closes
        ending = asyncio.ensure_future(running.stop())
        await eventually(running.context.stopping.is_set)
        answers = [await client.post(PATH, b"{}") for client in (kept, fresh)]
        assert [(answer.status, answer.closes) for answer in answers] == [(202, True)] * 2
        await ending
        with pytest.raises(ConnectionRefusedError):
            await kept.post(PATH, b"{}")


async def test_sigterm_under_load_loses_no_answer(database: str, redis_url: str) -> None:
    """Every request that was sent on a connection is answered; later ones find the port closed."""
    async with gateway(database, redis_url) as running:
        await running.apply(KEYED)
        operations = unused_port()
        async with process(database, redis_url, STEPWELL_METRICS_PORT=str(operations)) as (ending, port):
            answered: dict[str, int] = {}
            lost: list[str] = []

            async def sender(name: int) -> None:
                client = RawClient(port)
                for number in range(1_000_000):
                    key = f"{name}-{number}"
                    try:
                        answer = await client.post(PATH, b'{"id": "%s"}' % key.encode())
                    except OSError:  # nothing was sent: the port is closed
                        return
                    except UnansweredError:
                        lost.append(key)
                        return
                    answered[key] = answer.status

            senders = [asyncio.ensure_future(sender(name)) for name in range(8)]
            await eventually(lambda: len(answered) > 200, 20.0)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{operations}") as client:
                assert (await client.get("/readyz")).json() == {"ready": True, "missing": {}}
                accepted = f'stepwell_webhook_requests_total{{code="202",namespace="{NAMESPACE}",workflow="welcome"}}'
                assert accepted in (await client.get("/metrics")).text
            ending.send_signal(signal.SIGTERM)
            await asyncio.gather(*senders)
            assert await asyncio.to_thread(ending.wait, 20) == 0
        assert set(answered.values()) == {202}
        stored = {row[0] for row in running.rows("SELECT input_data->>'id' FROM runs")}
        assert set(answered) <= stored
        assert not lost, "sent on a connection that was closed without an answer"
        assert stored == set(answered)
