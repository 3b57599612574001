"""Wakes runs whose timer is due."""

from __future__ import annotations

from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.ports import UpkeepStore

BATCH = 1_000
PERIOD = 1.0  # seconds; runs park for two and more, so no timer can come due unseen
SHORTEST = 0.01


class Timers:
    """Looks once a second, and exactly when the next timer that it saw is due."""

    name = "timers"

    def __init__(self, store: UpkeepStore, offers: Offers) -> None:
        self._store = store
        self._offers = offers

    def reset(self) -> None:
        """Nothing is remembered."""

    async def run(self) -> float:
        """See Job."""
        woken, next_due = await self._store.wake_due(BATCH)
        await self._offers.add(woken)
        return PERIOD if next_due is None else min(PERIOD, max(SHORTEST, next_due))
