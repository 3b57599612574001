"""Makes the partitions of the coming days."""

from __future__ import annotations

import logging

from stepwell.domain.errors import ConflictError
from stepwell.engine.maintenance.retention import jittered
from stepwell.engine.ports import UpkeepStore

DAYS = 8  # today and a week ahead
PERIOD = 3600.0  # seconds

log = logging.getLogger(__name__)


class Partitions:
    """Hourly, so that a week of failures passes before a run could find no place."""

    name = "partitions"

    def __init__(self, store: UpkeepStore) -> None:
        self._store = store

    def reset(self) -> None:
        """Nothing is remembered."""

    async def run(self) -> float:
        """See Job."""
        try:
            made = await self._store.add_partitions(DAYS)
        except ConflictError:
            return 5.0
        if made:
            log.info("made %d partitions", made)
        return jittered(PERIOD)
