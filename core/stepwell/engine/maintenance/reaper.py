"""Declares workers dead and takes back what they left.

Death is declared after watching a worker's counter stand still for ``SILENCE`` seconds of the leader's own monotonic
clock, while the leader's own queries succeeded. So neither an outage of PostgreSQL nor a step of any clock kills a
worker on paper. Taking back is level-triggered: whatever runs under a worker that is dead or missing goes back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from stepwell.domain.errors import StepwellError
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.ports import Reaped, UpkeepStore

SILENCE = 20.0  # seconds
PERIOD = 4.0  # seconds
LONGEST_GAP = 2.5 * PERIOD  # seconds between two looks, beyond which nothing that was watched counts
BATCH = 500
DEATHS = 5  # of workers, while a run was their suspect

log = logging.getLogger(__name__)


class Reaper:
    """Watches heartbeat counters and requeues orphaned runs. ``recoveries`` counts these."""

    name = "reaper"

    def __init__(
        self,
        store: UpkeepStore,
        offers: Offers,
        *,
        silence: float = SILENCE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._offers = offers
        self._silence = silence
        self._monotonic = monotonic
        self._seen: dict[int, tuple[int, float]] = {}
        self._looked = 0.0
        self.recoveries = 0

    def reset(self) -> None:
        """Every worker's silence begins anew."""
        self._seen.clear()

    async def run(self) -> float:
        """See Job."""
        try:
            await self._watch()
            full = await self._take_back()
        except StepwellError:
            self.reset()
            raise
        return 0.0 if full else PERIOD

    async def _watch(self) -> None:
        counters = await self._store.counters()
        now = self._monotonic()
        if now - self._looked > max(LONGEST_GAP, self._silence / 2):
            self.reset()
        self._looked = now
        self._seen = {w: self._since(w, counter, now) for w, counter in counters.items()}
        for worker, (counter, since) in self._seen.items():
            if now - since >= self._silence and await self._store.declare_dead(worker, counter):
                log.warning("worker %d has not beaten for %.0f s and is declared dead", worker, now - since)

    def _since(self, worker: int, counter: int, now: float) -> tuple[int, float]:
        seen = self._seen.get(worker)
        return seen if seen is not None and seen[0] == counter else (counter, now)

    async def _take_back(self) -> bool:
        reaped = await self._store.reap(BATCH, DEATHS)
        for item in reaped:
            _tell(item)
        self.recoveries += len(reaped)
        await self._offers.add([item.run for item in reaped if item.status == "queued" and not item.suspect])
        return len(reaped) == BATCH


def _tell(item: Reaped) -> None:
    if item.status == "failed":
        log.error("run %s ended: %d workers died while they executed it", item.run.id, DEATHS)
    elif item.suspect:
        log.warning("run %s was left by a dead worker without progress; it is executed under suspicion", item.run.id)
    else:
        log.info("run %s was left by a dead worker and is %s", item.run.id, item.status)
