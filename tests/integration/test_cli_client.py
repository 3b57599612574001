"""The command line's client: a run is followed over gateways that come and go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from http_servers import Received, json_response, response, serve

from stepwell_cli.server import client
from stepwell_cli.server.client import BusyError, Server, connected

if TYPE_CHECKING:
    from http_servers import Answer

BUSY = response(b"", "Retry-After: 1", status="503 Service Unavailable")
STREAM = "Content-Type: text/event-stream"


def event(name: str, status: str) -> bytes:
    return b'id: %s\nevent: run\ndata: {"status": "%s"}\n\n' % (name.encode(), status.encode())


def in_turn(*answers: bytes) -> Answer:
    left = list(answers)

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0))
        await writer.drain()

    return answer


async def test_a_stream_that_broke_off_is_gone_on_with_once_a_gateway_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.01)
    gone = json_response('{"title": "Bad Gateway"}', "502 Bad Gateway")
    answers = in_turn(
        response(event("0", "running"), STREAM), BUSY, gone, response(event("3.end", "succeeded"), STREAM)
    )  # fmt: skip
    async with serve(answers) as server, connected(Server(server.url, "t")) as called:
        heard = [(e.id, e.data["status"]) async for e in called.events("r")]
    assert heard == [("0", "running"), ("3.end", "succeeded")]
    assert [request.header("Last-Event-ID") for request in server.requests] == [None, "0", "0", "0"]


async def test_a_gateway_that_cannot_begin_says_so() -> None:
    async with serve(BUSY) as server, connected(Server(server.url, "t")) as called:
        with pytest.raises(BusyError, match="answered 503"):
            async for _ in called.events("r"):
                pass
