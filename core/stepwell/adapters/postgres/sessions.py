"""Several sessions as one, for readers that must not wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import LiteralString, Protocol

from stepwell.adapters.postgres.session import Row, Session


class Executes(Protocol):
    """What a store asks of a session."""

    async def execute(self, query: LiteralString, params: Mapping[str, object] | None = None) -> list[Row]:
        """See Session."""


class Sessions:
    """A statement goes to the session that became free last; where none is, it waits. They connect when first used."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._free: asyncio.LifoQueue[Session] = asyncio.LifoQueue()
        for session in reversed(sessions):
            self._free.put_nowait(session)

    async def execute(self, query: LiteralString, params: Mapping[str, object] | None = None) -> list[Row]:
        """See Session."""
        session = await self._free.get()
        try:
            return await session.execute(query, params)
        finally:
            self._free.put_nowait(session)
