"""HTTP over one raw connection, so that a test knows what was sent and what was never answered."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import orjson


class Answer(NamedTuple):
    """A response as it was read; ``closes``: no other follows on this connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"

    def json(self) -> dict[str, object]:
        found: dict[str, object] = orjson.loads(self.body)
        return found


class UnansweredError(Exception):
    """A request was sent, and the connection ended without an answer."""


class RawClient:
    """One connection at a time; a new one after an answer that closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, headers: str = "content-type: application/json\r\n") -> Answer:
        """Raises ConnectionRefusedError before anything was sent, UnansweredError after it."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(body)}\r\n\r\n"
        try:
            writer.write(head.encode() + body)
            answer = await read_answer(reader)
        except (ConnectionError, asyncio.IncompleteReadError) as exc:
            self.close()
            raise UnansweredError from exc
        if answer.closes:
            self.close()
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The next response. Raises IncompleteReadError where the connection ends first."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(first.split()[1]), headers, body)
