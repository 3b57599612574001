"""An HTTP server that misbehaves on purpose, on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@dataclass(frozen=True)
class Received:
    """A request as it came over the wire."""

    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n")[0].decode()

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode().strip().split("\r\n")[1:]
        return [(name, value.strip()) for name, value in (line.split(":", 1) for line in lines)]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


Answer: TypeAlias = "Callable[[Received, asyncio.StreamWriter], Awaitable[None]]"


@dataclass
class Server:
    """``requests`` in the order of their ends; ``connections`` counts every one accepted; ``left``: a client went."""

    port: int
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


@asynccontextmanager
async def serve(answer: Answer | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve; ``answer`` writes the answer to a request, or is one. A connection is kept until it is closed there."""
    state = Server(0, scheme="https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        state.connections += 1
        try:
            await _converse(state, reader, writer, answer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            state.left.set()
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    state.port = listening.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _converse(
    state: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer | bytes
) -> None:
    while not writer.is_closing():
        head = await reader.readuntil(b"\r\n\r\n")
        request = Received(head, b"")
        length = int(request.header("Content-Length") or 0)
        request = Received(head, await reader.readexactly(length))
        state.requests.append(request)
        if isinstance(answer, bytes):
            writer.write(answer)
        else:
            await answer(request, writer)
        await writer.drain()


def response(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A whole answer; ``length`` lies about the body's."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def json_response(text: str | bytes, status: str = "200 OK") -> bytes:
    body = text.encode() if isinstance(text, str) else text
    return response(body, "Content-Type: application/json", status=status)


def redirect(location: str, status: str = "307 Temporary Redirect") -> bytes:
    return response(b"elsewhere", f"Location: {location}", status=status)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection with an RST instead of a FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def serve_proxy(*, status: str = "200 Connection established") -> AsyncIterator[Server]:
    """A proxy: joins two ends for CONNECT, sends what is in absolute form on, to loopback whatever the host is."""
    async with serve(_Proxying(status)) as server:
        yield server


@dataclass
class _Proxying:
    status: str

    async def __call__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        method, target, _ = request.line.split(" ")
        if not self.status.startswith("200"):
            writer.write(response(b"no", status=self.status))
            return
        place = target if method == "CONNECT" else target.split("/")[2]
        reader, onward = await asyncio.open_connection("127.0.0.1", int(place.rpartition(":")[2]))
        try:
            if method == "CONNECT":
                await self._tunnel(reader, onward, writer)
            else:
                onward.write(request.head + request.body)
                onward.write_eof()
                writer.write(await reader.read())
                await writer.drain()
                writer.close()
        finally:
            onward.close()

    async def _tunnel(
        self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
        transport = writer.transport
        ours: asyncio.StreamReader = transport.get_protocol()._stream_reader  # type: ignore[attr-defined]
        copies = [asyncio.ensure_future(_copy(ours, onward)), asyncio.ensure_future(_copy(reader, writer))]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def unused_port() -> int:
    """A port on loopback where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
