"""Bodies of requests: read whole, and no further than they may be long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from stepwell.domain.errors import StepwellError
from stepwell_gateway.problems import RETRY_AFTER, Problem

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

MAX_BODY = 1 << 20  # bytes of one request
MAX_HELD = 128 << 20  # bytes of all requests that are being read or answered

T = TypeVar("T")


class DisconnectedError(StepwellError):
    """The client went away before it had sent its request, or while it waited for the answer."""


async def while_connected(waiting: Coroutine[Any, Any, T], receive: Receive) -> T:
    """What ``waiting`` gives, for a request that was read whole. Raises DisconnectedError once the client has gone away."""
    work, gone = asyncio.ensure_future(waiting), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise DisconnectedError
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Bodies:
    """What a process holds of bodies. One that is longer than ``limit`` is refused before it is read to the end."""

    def __init__(self, limit: int = MAX_BODY, most: int = MAX_HELD) -> None:
        self._limit = limit
        self._most = most
        self.held = 0

    @asynccontextmanager
    async def reading(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """The body, which counts as held for the block. Raises Problem 413, 503 where too much is held already."""
        self._check_length(scope)
        parts: list[bytes] = []
        size = 0
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise DisconnectedError
                part = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(part)
                self.held += len(part)
                parts.append(part)
                self._check(size)
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            self.held -= size

    def _check_length(self, scope: Scope) -> None:
        for name, value in scope["headers"]:
            if name == b"content-length":
                digits = value.lstrip(b"0") or b"0"
                if len(digits) > 9 or int(digits) > self._limit:
                    raise self._too_large()

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise self._too_large()
        if self.held > self._most:
            raise Problem(503, "too many requests are being read at once", headers={"Retry-After": str(RETRY_AFTER)})

    def _too_large(self) -> Problem:
        return Problem(413, f"a body may have {self._limit:,} bytes")
