"""Requests that hardly any client sends, and clients that go away or do not read: each answer is its own request's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from typing import TYPE_CHECKING

import pytest
from gateways import NAMESPACE, gateway, trigger
from raw_client import read_answer
from waiting import eventually

from stepwell_gateway import connections

if TYPE_CHECKING:
    from gateways import Gateway
    from raw_client import Answer

PATH = f"/hooks/{NAMESPACE}/welcome/hook"
START = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
GOOD = START + b"content-length: 2\r\n\r\n{}"
H2C = b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"
BAD_HEAD = b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n"


async def _answers(running: Gateway, *pieces: bytes, count: int = 1) -> list[Answer]:
    """The first answers to what is sent on one connection, piece by piece; all of them, with 0."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    found: list[Answer] = []
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(15):
            while not count or len(found) < count:
                found.append(await read_answer(reader))
    except asyncio.IncompleteReadError as exc:
        assert (count, exc.partial) == (0, b"")  # noqa: PT017 - the end of the connection
    finally:
        writer.close()
    return found


# -- offers of another protocol --------------------------------------------------------------------------------------------


async def test_an_offer_of_another_protocol_is_passed_over_and_the_body_is_read(database: str, redis_url: str) -> None:
    """As Java's client sends every POST to http://, and `curl --http2`."""
    chunked = b"transfer-encoding: chunked\r\n\r\n7\r\n"
    offers = {
        "h2c": H2C + b"content-length: 7\r\n\r\n",
        "chunks": H2C + chunked,
        "websocket": b"connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 7\r\n\r\n",
    }
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        for number, (what, head) in enumerate(offers.items()):
            body, end = b'{"n":%d}' % number, b"\r\n0\r\n\r\n" if what == "chunks" else b""
            [answer] = await _answers(running, START + head + body + end)
            assert (answer.status, answer.closes) == (202, what != "websocket"), what
            [answer] = await _answers(running, START, head[:30], head[30:], body[:3], body[3:] + end)
            assert answer.status == 202, f"{what}, in pieces"
        assert sorted(value["n"] for value in running.inputs()) == [0, 0, 1, 1, 2, 2]


async def test_requests_behind_an_offer_are_answered_too(database: str, redis_url: str) -> None:
    offered = START + H2C.replace(b", close", b"") + b"content-length: 2\r\n\r\n{}"
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        assert [answer.status for answer in await _answers(running, offered * 2 + GOOD, count=3)] == [202] * 3
        assert running.count()[0] == 3
        [answer] = await _answers(running, b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answer.status == 400


# -- several requests at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [b"nonsense\r\n\r\n", BAD_HEAD], ids=["no HTTP", "large head"])
async def test_no_refusal_stands_in_the_place_of_another_requests_answer(
    database: str, redis_url: str, bad: bytes
) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        for number in (1, 2):
            answers = await _answers(running, GOOD * number + bad, count=0)
            assert [answer.status for answer in answers] == [202] * number, "and then it is closed"
        assert running.count()[0] == 3
        [only] = await _answers(running, bad, count=0)
        assert (only.status, only.closes) == (431 if bad == BAD_HEAD else 400, True)
        assert len(only.headers["x-request-id"]) == 24


async def test_only_so_many_requests_may_be_sent_ahead(database: str, redis_url: str) -> None:
    """Each of them is held: without a bound, 20 MB from anybody took 1 GB."""
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(respond={"wait": "300ms"}), trigger(name="free"))
        flood = b"GET /docs HTTP/1.1\r\nhost: x\r\n\r\n" * 10_000
        answers = await _answers(running, GOOD, flood, count=0)
        assert [answer.status for answer in answers] == [202] + [200] * connections.MAX_AHEAD
        assert answers[-1].closes
        large = START + b"content-length: 200000\r\n\r\n" + b" " * 200_000
        assert [answer.status for answer in await _answers(running, GOOD, large, count=0)] == [202]
        assert [answer.status for answer in await _answers(running, large)] == [422], "first, it is read"


async def test_half_a_request_behind_one_that_waits_costs_it_no_answer(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell_gateway.serving.SWEEP", 0.05)
    monkeypatch.setattr(connections, "REQUEST_TIME", 0.1)
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(respond={"wait": "500ms"}))
        for half in (START, START + b"content-length: 9\r\n\r\n{"):
            answers = await _answers(running, GOOD + half, count=0)
            assert [answer.status for answer in answers] == [202]


# -- clients that are gone, or do not read -----------------------------------------------------------------------------------


async def test_nobody_waits_for_an_answer_that_nobody_will_read(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(respond={"wait": "1h"}))
        large = START + b"content-length: 60000\r\n\r\n" + b" " * 50_000
        for number, more in enumerate((b"", GOOD, GOOD * 9, b"GET", GOOD * 99, large), 1):
            _, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(GOOD + more)
            await eventually(lambda: len(running.context.outcomes._waiting) == 1)
            writer.write(more)
            await writer.drain()
            writer.close()
            await eventually(lambda: not running.context.outcomes._waiting)
            assert running.count()[0] == number, "the run goes on"


async def test_a_client_that_goes_away_is_no_error_of_ours(
    database: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(START + b"content-length: 9\r\n\r\n{")
        await eventually(lambda: running.context.bodies.held == 1)
        writer.close()
        await eventually(lambda: running.context.bodies.held == 0)
        assert (await running.post()).status_code == 202
        [counted] = [f for f in running.context.metrics.collect() if f.name == "stepwell_webhook_requests"]
        assert {s.labels["code"] for s in counted.samples} == {"202"}
    assert "defect" not in caplog.text


async def test_who_does_not_read_an_answer_is_let_go(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell_gateway.serving.SWEEP", 0.05)
    monkeypatch.setattr(connections, "READ_TIME", 0.1)
    monkeypatch.setattr(connections, "MAX_AHEAD", 2_000)
    async with gateway(database, redis_url) as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 2_000)  # more answers than all buffers hold
        async with asyncio.timeout(20):
            while not writer.is_closing():
                with contextlib.suppress(ConnectionError):
                    writer.write(b"\r\n")
                    await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()
        assert (await running.client.get("/docs")).status_code == 200


async def test_a_length_is_looked_at_before_the_body(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        for length, status in ((b"1048577", 413), (b"18446744073709551615", 413), (b"0" * 5_000 + b"2", 202)):
            [answer] = await _answers(running, START + b"content-length: " + length + b"\r\n\r\n{}")
            assert answer.status == status, length[:30]


# -- anything at all -----------------------------------------------------------------------------------------------------------

PIECES = [
    GOOD, GOOD * 40, GOOD.replace(b"/hook ", b"/slow "), START, START + H2C + b"content-length: 2\r\n\r\n{}", b"{}", b"\r\n",
    START + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", START + b"content-length: 2000000\r\n\r\n", b"0\r\n\r\n",
    START + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n", b"GET /docs HTTP/1.1\r\nhost: x\r\n\r\n", b"x" * 3_000, BAD_HEAD,
    b"HEAD /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /approvals/x HTTP/1.0\r\n\r\n", b"\0\xff", b"nonsense\r\n\r\n",
    b"GET /api/v1/namespaces/growth/runs HTTP/1.1\r\nhost: x\r\n\r\n", b"POST / HTTP/1.1\r\nconnection: close\r\n\r\n",
]  # fmt: skip


async def test_whatever_comes_no_defect_shows_and_nothing_is_left_behind(
    database: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests, halves of them and rubbish in any order, from clients that read or not, and leave at any time."""
    rnd = random.Random(7)

    async def client(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        heard = b""
        try:
            for _ in range(rnd.randint(1, 5)):
                piece = rnd.choice(PIECES)
                writer.write(piece[: rnd.randint(0, len(piece))] if rnd.random() < 0.3 else piece)
                await asyncio.sleep(rnd.choice((0, 0, 0.005)))
            with contextlib.suppress(TimeoutError):
                if rnd.random() < 0.6:
                    async with asyncio.timeout(0.05):
                        heard = await reader.read(100_000)
        except (OSError, RuntimeError):  # the gateway closed it meanwhile
            pass
        finally:
            writer.transport.abort() if rnd.random() < 0.5 else writer.close()
        return heard

    async with gateway(database, redis_url) as running:
        await running.apply(trigger(), trigger(name="slow", respond={"wait": "1h"}))
        tasks = len(asyncio.all_tasks())
        heard = b""
        for _ in range(15):
            heard += b"".join(await asyncio.gather(*(client(running.port) for _ in range(30))))
        met = set(re.findall(rb"HTTP/1.1 (\d+) ", heard))
        assert met >= {b"200", b"202", b"400"}, met
        assert not {status for status in met if status >= b"500"}, met
        await eventually(lambda: running.context.bodies.held == 0)
        await eventually(lambda: not running.context.outcomes._waiting)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 2)  # one connection of the test's own client
        assert (await running.post()).status_code == 202
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
