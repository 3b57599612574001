"""Compares the runs that the database says this worker owns with those that it knows."""

from __future__ import annotations

import asyncio
import logging

from stepwell.domain.errors import StepwellError
from stepwell.engine.dispatch import Dispatcher
from stepwell.engine.ports import RunStore

PERIOD = 10.0  # seconds

log = logging.getLogger(__name__)


class OwnershipAudit:
    """Hands back what only the database knows of (a claim whose answer was lost, a task that died), and lets go of what
    only the worker believes in. A difference counts when two looks in a row saw it: a claim or a flush whose answer is
    under way makes one, too.
    """

    def __init__(self, store: RunStore, dispatcher: Dispatcher, worker: int) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._worker = worker
        self._unknown: dict[str, int] = {}
        self._unowned: set[tuple[str, int]] = set()

    async def run(self) -> None:
        """Compare for ever; cancelled to stop."""
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self.compare()
            except StepwellError as exc:
                log.warning("the ownership audit: %s", exc)

    async def compare(self) -> None:
        """One look."""
        before = {(run_id, e.run.fence) for run_id, e in self._dispatcher.active.items()}
        owned = await self._store.owned(self._worker)
        known = {(run_id, e.run.fence) for run_id, e in self._dispatcher.active.items()}
        unknown = {i: f for i, f in owned.items() if (i, f) not in known and (i, f) not in before}
        unowned = {pair for pair in before & known if pair not in owned.items()}
        lost = {i: f for i, f in unknown.items() if self._unknown.get(i) == f}
        gone = [run_id for run_id, _ in unowned & self._unowned]
        self._unknown, self._unowned = unknown, unowned
        if gone:  # first: while something is awaited, a run may come back under another fence
            log.warning("%d runs are no longer this worker's and are dropped", len(gone))
            self._dispatcher.lost(gone)
        if lost:
            log.warning("%d runs that this worker does not know of are handed back", len(lost))
            await self._store.hand_back(self._worker, lost)
