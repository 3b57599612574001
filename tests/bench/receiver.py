"""A small HTTP receiver for benchmarks: answers every request with the same JSON, in a process of its own.

Prints its port on the first line and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

BODY = b'{"id":"u_1042","accepted":true}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    + str(len(BODY)).encode()
    + b"\r\n\r\n"
    + BODY
)


class Receiver(asyncio.Protocol):
    """Counts on requests whose head and body arrive in one piece or in two: enough for our own client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(ANSWER)  # type: ignore[attr-defined]


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Receiver, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    closed = loop.create_future()
    loop.add_reader(sys.stdin, lambda: closed.done() or closed.set_result(None))
    await closed


if __name__ == "__main__":
    uvloop.run(main())
