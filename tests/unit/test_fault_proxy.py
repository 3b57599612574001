"""The fault proxy does to a connection what its table says."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_proxy import FaultProxy, Mode
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Echo:
    """A server on a unix socket that answers every line with itself and keeps what it received."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self.received.append(line)
                writer.write(line)
        writer.close()


@contextlib.asynccontextmanager
async def proxied(path: Path) -> AsyncIterator[tuple[Echo, FaultProxy]]:
    echo = Echo(path / "echo")
    async with await asyncio.start_unix_server(echo.serve, echo.path), FaultProxy(echo.path) as proxy:
        yield echo, proxy


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> bytes:
    writer.write(line)
    return await reader.readline()


@pytest.fixture
def short_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fp-") as path:
        yield Path(path)


async def test_passes_bytes_and_the_end(short_path: Path) -> None:
    async with proxied(short_path) as (_, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        assert await ask(reader, writer, b"one\n") == b"one\n"
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_a_blackhole_holds_bytes_until_it_heals(short_path: Path) -> None:
    async with proxied(short_path) as (echo, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        await ask(reader, writer, b"one\n")
        proxy.mode = Mode.BLACKHOLE
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(reader, writer, b"two\n"), 0.05)
        assert echo.received == [b"one\n"]
        proxy.mode = Mode.PASS
        assert await reader.readline() == b"two\n"
        writer.close()


async def test_a_refused_connection_is_reset_at_once(short_path: Path) -> None:
    async with proxied(short_path) as (echo, proxy):
        open_before = await asyncio.open_connection(proxy.host, proxy.port)
        await ask(*open_before, b"one\n")
        proxy.mode = Mode.REFUSE
        for reader, writer in open_before, await asyncio.open_connection(proxy.host, proxy.port):
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()
        assert echo.received == [b"one\n"]
        assert proxy.counts["reset"] == 2


async def test_a_lost_reply_reached_the_server(short_path: Path) -> None:
    async with proxied(short_path) as (echo, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        proxy.drop_reply(b"COMMIT")
        assert await ask(reader, writer, b"BEGIN\n") == b"BEGIN\n"
        with pytest.raises(ConnectionResetError):
            await ask(reader, writer, b"COMMIT\n")
        assert echo.received == [b"BEGIN\n", b"COMMIT\n"]
        assert proxy.counts["dropped"] == 1
        assert proxy.mode is Mode.PASS
        writer.close()


async def test_reset_strikes_with_the_next_byte(short_path: Path) -> None:
    async with proxied(short_path) as (_, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        await ask(reader, writer, b"one\n")
        proxy.mode = Mode.RESET
        with pytest.raises(ConnectionResetError):
            await ask(reader, writer, b"two\n")
        writer.close()
        await eventually(lambda: proxy.counts["reset"] == 1)


async def test_slow_delays_each_way(short_path: Path) -> None:
    async with proxied(short_path) as (_, proxy):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        proxy.mode = Mode.SLOW
        started = time.monotonic()
        assert await ask(reader, writer, b"one\n") == b"one\n"
        assert time.monotonic() - started >= 0.09
        writer.close()
