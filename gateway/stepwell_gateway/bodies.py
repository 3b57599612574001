"""Bodies of requests: read whole, and no further than they may be long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stepwell.domain.errors import StepwellError
from stepwell_gateway.problems import RETRY_AFTER, Problem

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

MAX_BODY = 1 << 20  # bytes of one request
MAX_HELD = 128 << 20  # bytes of all requests that are being read or answered


class DisconnectedError(StepwellError):
    """The client went away before it had sent its request."""


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
            if name == b"content-length" and len(value) < 20 and int(value) > self._limit:
                raise self._too_large()

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise self._too_large()
        if self.held > self._most:
            raise Problem(503, "too many requests are being read at once", headers={"Retry-After": str(RETRY_AFTER)})

    def _too_large(self) -> Problem:
        return Problem(413, f"a body may have {self._limit:,} bytes")
