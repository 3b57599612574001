"""Compares queued runs with the ready queue and offers again what Redis may have lost."""

from __future__ import annotations

from typing import Protocol

from stepwell.domain.errors import UnavailableError
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.ports import UpkeepStore

PAGE = 1_000  # live runs
PERIOD = 1.0  # seconds: a thousand runs a second
QUIET = 1.0  # seconds, once every queued run was compared: a lost offer is made again after three at most
START = ("", "00000000-0000-0000-0000-000000000000")


class Marked(Protocol):
    """A ready queue that can tell whether it was emptied since it was marked."""

    async def mark(self) -> bool:
        """Mark the queue; whether the mark was still there."""


class ReAdder:
    """Walks the live runs by cursor, however many of them wait or run; after a loss it does not pause between pages."""

    name = "re-adder"

    def __init__(self, store: UpkeepStore, offers: Offers, queue: Marked) -> None:
        self._store = store
        self._offers = offers
        self._queue = queue
        self._cursor = START
        self._hurry = True

    def reset(self) -> None:
        """Begin with the first page, without pauses."""
        self._cursor = START
        self._hurry = True

    async def run(self) -> float:
        """See Job."""
        try:
            if not await self._queue.mark():
                self.reset()
        except UnavailableError:
            self._hurry = True
            return PERIOD
        page, following = await self._store.queued_page(self._cursor, PAGE)
        if not await self._offers.add(page):
            return PERIOD
        self._cursor = following or START
        if following is None:
            self._hurry = False
            return QUIET
        return 0.0 if self._hurry else PERIOD
