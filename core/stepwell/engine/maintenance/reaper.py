"""Declares workers dead and takes back what they left.

Death is declared after watching a worker's counter stand still for ``SILENCE`` seconds of the leader's own monotonic
clock, while the leader's own queries succeeded. So neither an outage of PostgreSQL nor a step of any clock kills a
worker on paper. Taking back is level-triggered: whatever runs under a worker that is dead or missing goes back.
Looking for that reads every live run, so it happens at every tick only while a lost worker's last claim may still be under
way, and now and then otherwise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from stepwell.domain.errors import StepwellError
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.observer import SILENT, Observer
from stepwell.engine.ports import Reaped, UpkeepStore

SILENCE = 20.0  # seconds
PERIOD = 4.0  # seconds, or a fifth of the silence where that is shorter
LONGEST_GAP = 0.5  # of the silence, between two looks, beyond which nothing that was watched counts
AFTERMATH = 60.0  # seconds after the loss of a worker in which every tick looks for what it left
LOOK = 30.0  # seconds between two looks in quiet times
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
        observer: Observer = SILENT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._offers = offers
        self._silence = silence
        self._observer = observer
        self._monotonic = monotonic
        self._seen: dict[int, tuple[int, float]] = {}
        self._watched = 0.0
        self._look_until = 0.0
        self._next_look = 0.0
        self.recoveries = 0
        self.reset()

    def reset(self) -> None:
        """Every worker's silence begins anew; who was lost before is not known."""
        self._seen.clear()
        self._look_until = self._monotonic() + AFTERMATH

    async def run(self) -> float:
        """See Job."""
        try:
            await self._watch()
            if self._looking():
                await self._take_back()
        except StepwellError:
            self.reset()
            raise
        return min(PERIOD, self._silence / 5)

    async def _watch(self) -> None:
        asked = self._monotonic()
        counters = await self._store.counters()
        now = self._monotonic()
        if now - self._watched > LONGEST_GAP * self._silence:
            self.reset()
        self._watched = now
        lost = not self._seen.keys() <= counters.keys()
        self._seen = {w: self._since(w, counter, now) for w, counter in counters.items()}
        for worker, (counter, since) in list(self._seen.items()):  # a reset may come in between
            if (
                worker in self._seen
                and asked - since >= self._silence
                and await self._store.declare_dead(worker, counter)
            ):
                log.warning("worker %d has not beaten for %.0f s and is declared dead", worker, asked - since)
                lost = True
        if lost:
            self._look_until = now + AFTERMATH

    def _since(self, worker: int, counter: int, now: float) -> tuple[int, float]:
        seen = self._seen.get(worker)
        return seen if seen is not None and seen[0] == counter else (counter, now)

    def _looking(self) -> bool:
        now = self._monotonic()
        if now > self._look_until and now < self._next_look:
            return False
        self._next_look = now + LOOK
        return True

    async def _take_back(self) -> None:
        orphans = list((await self._store.orphans()).items())
        for first in range(0, len(orphans), BATCH):
            reaped = await self._store.reap(dict(orphans[first : first + BATCH]), DEATHS)
            for item in reaped:
                _tell(item)
            self.recoveries += len(reaped)
            self._observer.recovered(reaped)
            await self._offers.add([item.run for item in reaped if item.status == "queued" and not item.suspect])


def _tell(item: Reaped) -> None:
    about = {"run": item.run.id, "namespace": item.run.namespace}
    if item.poisonous:
        log.error("run %s ended: %d workers died while they executed it", item.run.id, DEATHS, extra=about)
    elif item.suspect:
        message = "run %s was left by a dead worker without progress; it is executed under suspicion"
        log.warning(message, item.run.id, extra=about)
    else:
        log.info("run %s was left by a dead worker and is %s", item.run.id, item.status, extra=about)
