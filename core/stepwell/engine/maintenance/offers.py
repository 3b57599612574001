"""Offers runs to the ready queue, which may be away."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stepwell.domain.errors import UnavailableError
from stepwell.engine.ports import ReadyQueue, ReadyRun

log = logging.getLogger(__name__)


class Offers:
    """A hint that cannot be given is dropped: the comparison of queued runs with the queue gives it again."""

    def __init__(self, queue: ReadyQueue) -> None:
        self._queue = queue

    async def add(self, runs: Sequence[ReadyRun]) -> bool:
        """Whether the queue has them now."""
        if not runs:
            return True
        try:
            await self._queue.add(runs)
        except UnavailableError as exc:
            log.warning("%d runs could not be offered: %s", len(runs), exc)
            return False
        return True
