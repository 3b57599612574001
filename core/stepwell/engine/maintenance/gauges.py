"""Counts the live runs of every namespace, for dashboards and alerts."""

from __future__ import annotations

from stepwell.engine.observer import NamespaceLoad, Observer
from stepwell.engine.ports import UpkeepStore

PAGE = 20_000  # live runs a statement, so that none holds the other jobs up
PAUSE = 0.5  # seconds between two pages
PERIOD = 15.0  # seconds between two walks
START = ("", "00000000-0000-0000-0000-000000000000")


class QueueGauges:
    """Walks the live runs by cursor and tells what it counted at the end: one statement where they are few."""

    name = "queue-gauges"

    def __init__(self, store: UpkeepStore, observer: Observer) -> None:
        self._store = store
        self._observer = observer
        self._cursor = START
        self._load: dict[str, NamespaceLoad] = {}

    def reset(self) -> None:
        """Begin with the first page."""
        self._cursor = START
        self._load = {}

    async def run(self) -> float:
        """See Job."""
        page, following = await self._store.live_counts(self._cursor, PAGE)
        for count in page:
            found = self._load.setdefault(count.namespace, NamespaceLoad({}, 0.0))
            runs = {**found.runs, count.status: found.runs.get(count.status, 0) + count.runs}
            self._load[count.namespace] = NamespaceLoad(runs, max(found.oldest, count.oldest))
        if following is not None:
            self._cursor = following
            return PAUSE
        self._observer.counted(self._load)
        self.reset()
        return PERIOD
