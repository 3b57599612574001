"""A TCP proxy on 127.0.0.1 that makes the network misbehave between a client and PostgreSQL or Valkey.

Upstream is a unix socket's path or (host, port). A mode holds for open and new connections alike, until the next one:

=============  =====================================================================================
PASS           bytes flow
SLOW           each piece waits for ``delay`` seconds, in either direction
BLACKHOLE      bytes stay where they are, connections stay open; PASS lets them flow on, as TCP would
REFUSE         open connections are reset, new ones as soon as they come
RESET          a connection is reset when the next byte moves on it
DROP_REPLY     the next request reaches the server, its reply is lost with the connection; then PASS
=============  =====================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from types import TracebackType

CHUNK = 65536
_LINGER_ZERO = struct.pack("ii", 1, 0)  # close() sends RST

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Mode(StrEnum):
    PASS = auto()
    SLOW = auto()
    BLACKHOLE = auto()
    REFUSE = auto()
    RESET = auto()
    DROP_REPLY = auto()


class FaultProxy:
    """``async with FaultProxy(upstream) as proxy:``, then connect to ``proxy.host`` and ``proxy.port``.

    ``counts`` tells what happened: ``accepted``, ``reset``, ``dropped`` (replies). A fault that no test connection met
    proves nothing: assert on it.
    """

    host = "127.0.0.1"

    def __init__(self, upstream: str | Path | tuple[str, int], delay: float = 0.05) -> None:
        self._upstream = upstream
        self._delay = delay
        self._mode = Mode.PASS
        self._request_needed: bytes | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.counts: Counter[str] = Counter()

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        if mode is Mode.BLACKHOLE:
            self._flowing.clear()
        else:
            self._flowing.set()
        if mode is Mode.REFUSE:
            self.cut()

    def drop_reply(self, request: bytes = b"") -> None:
        """Mode DROP_REPLY for the first request that holds these bytes, such as ``b"COMMIT"``."""
        self._request_needed = request
        self.mode = Mode.DROP_REPLY

    def cut(self) -> None:
        """Reset every open connection, on both sides."""
        for link in list(self._links):
            self._reset(link)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self.host, self.port, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.mode = Mode.REFUSE
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.counts["accepted"] += 1
        link = _Link(writer)
        self._links.add(link)
        try:
            await self._serve(link, reader)
        except OSError:
            link.reset()
        finally:
            self._links.discard(link)
            link.close()

    async def _serve(self, link: _Link, reader: asyncio.StreamReader) -> None:
        if self._mode is Mode.REFUSE:
            self._reset(link)
            return
        await self._flowing.wait()
        answers, link.server = await self._connect()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._requests(link, reader))
            both.create_task(self._replies(link, answers))

    async def _connect(self) -> Streams:
        if isinstance(self._upstream, tuple):
            return await asyncio.open_connection(*self._upstream, limit=CHUNK)
        return await asyncio.open_unix_connection(str(self._upstream), limit=CHUNK)

    async def _requests(self, link: _Link, reader: asyncio.StreamReader) -> None:
        assert link.server is not None
        async for data in self._pieces(link, reader):
            if self._mode is Mode.DROP_REPLY and (self._request_needed or b"") in data:
                link.reply_lost = True
            await link.write(link.server, data)

    async def _replies(self, link: _Link, answers: asyncio.StreamReader) -> None:
        async for data in self._pieces(link, answers):
            if link.reply_lost:
                self.counts["dropped"] += 1
                self.mode = Mode.PASS
                self._reset(link)
                return
            await link.write(link.client, data)

    async def _pieces(self, link: _Link, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """What ``reader`` brings, each piece after the fault of the moment; its end is passed on."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if self._mode is Mode.SLOW:
                    await asyncio.sleep(self._delay)
                await self._flowing.wait()
                if self._mode is Mode.RESET:
                    self._reset(link)
                    return
                yield data
        await self._flowing.wait()
        link.close()

    def _reset(self, link: _Link) -> None:
        self.counts["reset"] += 1
        self._links.discard(link)
        link.reset()


class _Link:
    """A client's connection and the one that was opened for it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.reply_lost = False

    async def write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()

    def close(self) -> None:
        for writer in self._writers():
            writer.close()

    def reset(self) -> None:
        for writer in self._writers():
            handle = writer.get_extra_info("socket")
            if handle is not None and handle.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            writer.transport.abort()

    def _writers(self) -> list[asyncio.StreamWriter]:
        return [writer for writer in (self.client, self.server) if writer is not None]
