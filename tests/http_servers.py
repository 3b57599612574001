"""An HTTP server that misbehaves on purpose, on loopback."""

from __future__ import annotations

import asyncio
import socket
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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serve(answer: Answer | bytes) -> AsyncIterator[Server]:
    """Serve; ``answer`` writes the answer to a request, or is one. A connection is kept until it is closed there."""
    state = Server(0)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        state.connections += 1
        try:
            await _converse(state, reader, writer, answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            state.left.set()
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
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


def reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection with an RST instead of a FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def unused_port() -> int:
    """A port on loopback where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
