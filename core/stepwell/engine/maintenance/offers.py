"""Offers runs to the ready queue, which may be away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from stepwell.domain.errors import UnavailableError
from stepwell.engine.ports import ReadyQueue, ReadyRun

PAUSE = 0.5  # seconds after a failure in which nothing is tried

log = logging.getLogger(__name__)


class Offers:
    """A hint that cannot be given is dropped: the comparison of queued runs with the queue gives it again.

    One call at a time, and none right after one that failed: however many starts wait to be told, a Redis that does not
    answer holds one connection, and its absence is two lines in the log.
    """

    def __init__(self, queue: ReadyQueue, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._monotonic = monotonic
        self._calling = asyncio.Lock()
        self._lost_at: float | None = None
        self._retry_at = 0.0

    async def add(self, runs: Sequence[ReadyRun]) -> bool:
        """Whether the queue has them now."""
        if not runs:
            return True
        async with self._calling:
            if self._monotonic() < self._retry_at:
                return False
            try:
                await self._queue.add(runs)
            except UnavailableError as exc:
                self._failed(exc)
                return False
        self._succeeded()
        return True

    def _failed(self, why: UnavailableError) -> None:
        now = self._monotonic()
        self._retry_at = now + PAUSE
        if self._lost_at is None:
            self._lost_at = now
            log.warning("runs cannot be offered: %s; the workers find them in PostgreSQL", why)

    def _succeeded(self) -> None:
        if self._lost_at is not None:
            log.info("runs are offered again after %.1f s", self._monotonic() - self._lost_at)
            self._lost_at = None
