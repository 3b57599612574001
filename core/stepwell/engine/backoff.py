"""Pauses between tries of our own calls: exponential with jitter."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """From ``initial`` to ``maximum`` seconds, doubling; each pause is between half of that and all of it."""

    def __init__(self, initial: float = 0.05, maximum: float = 2.0) -> None:
        self._initial = initial
        self._maximum = maximum
        self._ceiling = initial

    def reset(self) -> None:
        """Begin anew after a success."""
        self._ceiling = self._initial

    def next(self) -> float:
        """The next pause in seconds."""
        ceiling, self._ceiling = self._ceiling, min(self._ceiling * 2, self._maximum)
        return ceiling * (0.5 + random.random() / 2)  # noqa: S311 - spreads load, guards nothing

    async def pause(self) -> None:
        """Wait for the next pause."""
        await asyncio.sleep(self.next())
