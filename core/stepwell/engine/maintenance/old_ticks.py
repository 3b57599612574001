"""Forgets ticks that were decided on days ago."""

from __future__ import annotations

import logging

from stepwell.engine.clock import Clock
from stepwell.engine.maintenance.retention import jittered
from stepwell.engine.schedules import ScheduleStore, TickRow

KEPT = 7 * 86_400_000_000  # microseconds: for people who ask why nothing ran, and should a clock go back
PAGE = 1_000
PAUSE = 0.2  # seconds between two pages
PERIOD = 3600.0  # seconds between two walks
START = TickRow(0, "", 0, 0, None)

log = logging.getLogger(__name__)


class OldTicks:
    """A tick whose run has not ended stays: `Forbid` and `Replace` find the run by it."""

    name = "old-ticks"

    def __init__(self, store: ScheduleStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._cursor = START

    def reset(self) -> None:
        """Begin with the oldest."""
        self._cursor = START

    async def run(self) -> float:
        """See Job."""
        page = await self._store.old_ticks(self._clock.micros() - KEPT, self._cursor, PAGE)
        live = await self._store.live([tick.run_id for tick in page if tick.run_id is not None])
        over = [tick for tick in page if tick.run_id not in live]
        if over:
            await self._store.delete_ticks(over)
        if len(page) == PAGE:
            self._cursor = page[-1]
            return PAUSE
        self._cursor = START
        return jittered(PERIOD)
