"""Looks for waiting runs that nothing would ever wake. There must be none."""

from __future__ import annotations

import logging

from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.observer import SILENT, Observer
from stepwell.engine.ports import UpkeepStore

PERIOD = 60.0  # seconds
BATCH = 500

log = logging.getLogger(__name__)


class WaitingAudit:
    """``stranded`` counts what was found: each is a defect of ours, mended and told."""

    name = "waiting-audit"

    def __init__(self, store: UpkeepStore, offers: Offers, observer: Observer = SILENT) -> None:
        self._store = store
        self._observer = observer
        self._offers = offers
        self.stranded = 0

    def reset(self) -> None:
        """Nothing is remembered."""

    async def run(self) -> float:
        """See Job."""
        stranded = await self._store.stranded()
        for first in range(0, len(stranded), BATCH):
            woken = await self._store.wake_stranded(stranded[first : first + BATCH])
            for run in woken:
                about = {"run": run.id, "namespace": run.namespace}
                log.error("run %s waited for nothing and was woken; please report this", run.id, extra=about)
            self.stranded += len(woken)
            self._observer.stranded(woken)
            await self._offers.add(woken)
        return PERIOD
