"""One connection of a client, on uvicorn's protocol: no client may be endless, slow for ever, or one of too many."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from stepwell_gateway.problems import MEDIA_TYPE, Problem
from stepwell_gateway.requests import new_request_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

MAX_HEAD = 16 << 10  # bytes of the request line and all headers
MAX_HEADERS = 100
MAX_AHEAD = 16  # requests that a client may send before it has the answer to the first of them
MAX_BODIES_AHEAD = 64 << 10  # bytes of their bodies
HEAD_TIME = 10.0  # seconds that a request's head may take to arrive, from its first byte or the connection's start
REQUEST_TIME = 30.0  # seconds that the whole request may take
READ_TIME = 30.0  # seconds that a client may leave an answer unread
SWEEP = 1.0  # seconds between two looks at all connections


@dataclass(slots=True)
class Gate:
    """What all connections of a server share: how many there may be, and whether each has one more answer only."""

    most: int
    draining: bool = False


class Connection(HttpToolsProtocol):
    """Serves one connection; a server makes a class of its own, with its ``gate``. Times are looked at by ``sweep``, which costs a request nothing."""

    gate: Gate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0  # bytes since the head began; -1: it is complete
        self._receiving: float | None = None  # since when a request is arriving
        self._unread: float | None = None  # since when the client reads nothing
        self._ahead: list[RequestResponseCycle] = []  # where several came at once: those that may not be answered yet
        self._ahead_size = 0
        self._last = False  # whether the answers that are due are the last ones, and what still comes is not read

    # -- what the transport tells -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._receiving = self.loop.time()
        if len(self.connections) > self.gate.most:
            self._refuse(Problem(503, "there are too many connections", headers={"Retry-After": "1"}))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. All requests hear of it, not the last one alone."""
        super().connection_lost(exc)
        for cycle in self._ahead:
            cycle.disconnected = True
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._last or self.transport.is_closing():
            return
        if self._receiving is None:
            self._receiving, self._head = self.loop.time(), 0
        if self._head >= 0:
            self._head += len(data)
        self._unset_keepalive_if_required()
        try:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as offer:
                self._decline(data[offer.args[0] :])
        except HttpParserError:
            self._refuse(_NO_HTTP)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self._refuse(_LARGE_HEAD)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._unread = self.loop.time()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        self._unread = None

    # -- what the parser tells ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._head < 0:  # the next one of several that came at once
            self._receiving, self._head = self.loop.time(), 0

    def on_headers_complete(self) -> None:
        """Its head is there."""
        if self._offers_upgrade():
            return
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD or len(self.headers) > MAX_HEADERS:
            self._refuse(_LARGE_HEAD)
            raise HttpParserError
        if len(self.pipeline) >= MAX_AHEAD:  # each answer makes room for another read, which may bring thousands
            self._refuse(_TOO_MUCH)
            raise HttpParserError
        self._head = -1
        before = self.cycle
        super().on_headers_complete()
        if self.pipeline:
            self._ahead = [cycle for cycle in (*self._ahead, before) if not cycle.response_complete]
            self._ahead_size = sum(len(cycle.body) for cycle, _ in self.pipeline)
            self.flow.resume_reading()  # who does not read does not see that the client has gone
        if self.gate.draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        super().on_body(body)
        if self.pipeline:
            self._ahead_size += len(body)
            if self._ahead_size > MAX_BODIES_AHEAD:
                self._refuse(_TOO_MUCH)
                raise HttpParserError

    def on_message_complete(self) -> None:
        """All of it is there."""
        if self._offers_upgrade():
            return
        super().on_message_complete()
        self._receiving = None

    # -- offers to speak another protocol ------------------------------------------------------------------------------

    def _offers_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _decline(self, rest: bytes) -> None:
        """Read the request again without the offer; ``rest`` is what stands behind its head.

        Clients offer h2c with ordinary requests (Java's with each POST), and the parser takes a body that follows an offer for
        the other protocol.
        """
        while True:
            data = self._head_without_offer() + rest
            self.parser = HttpRequestParser(self)
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as offer:  # of the next request, which came at once
                rest = data[offer.args[0] :]
            else:
                return

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                kept = [word for word in value.lower().split(b",") if word.strip() in {b"close", b"keep-alive"}]
                lines += [b"connection: " + b",".join(kept)] if kept else []
            elif name not in {b"upgrade", b"http2-settings"}:
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # -- refusals -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Close after the answer that is under way."""
        if not self._is_free():
            self.cycle.keep_alive = False

    def look(self, now: float) -> None:
        """End the connection of a client that takes too long."""
        if self.transport.is_closing():
            return
        if self._unread is not None and now - self._unread > READ_TIME:
            self.transport.abort()
        elif self._receiving is not None:
            took = now - self._receiving
            if took > REQUEST_TIME or (self._head >= 0 and took > HEAD_TIME):
                self._refuse(_SLOW)

    def _refuse(self, problem: Problem) -> None:
        """Say so and close. No refusal stands in the place of an answer to another request: whole ones that came before on
        this connection are answered first, and then it is closed without a word.
        """
        if self.transport.is_closing():
            return
        if self.pipeline and self.cycle.more_body:  # half a request behind whole ones is forgotten
            self.pipeline.popleft()
            self.cycle = self._ahead[-1]
        if not self._is_free() and not self.cycle.more_body:
            self._last, self.cycle.keep_alive = True, False
            self.flow.resume_reading()
            return
        if self._is_free() or not self.cycle.response_started:
            self.transport.write(_raw(problem))
        self.transport.close()

    def _is_free(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete


def sweep(connections: Iterable[Connection], now: float) -> None:
    """Look at all connections."""
    for connection in list(connections):
        connection.look(now)


def _raw(problem: Problem) -> bytes:
    body = orjson.dumps(
        {"type": "about:blank", "title": problem.title, "status": problem.status, "detail": problem.detail}
    )
    lines = [f"content-type: {MEDIA_TYPE}", f"content-length: {len(body)}", "connection: close"]
    lines.append(f"x-request-id: {new_request_id()}")
    lines += [f"{name.lower()}: {value}" for name, value in problem.headers.items()]
    return STATUS_LINE[problem.status] + "\r\n".join(lines).encode() + b"\r\n\r\n" + body


_LARGE_HEAD = Problem(431, f"the head of a request may have {MAX_HEAD:,} bytes and {MAX_HEADERS} headers")
_TOO_MUCH = Problem(429, "too much was sent before the first request was answered")
_SLOW = Problem(408, "the request took too long to arrive")
_NO_HTTP = Problem(400, "this is no HTTP request")
