"""Compares queued runs with the ready queue and offers again what Redis may have lost."""

from __future__ import annotations

from typing import Protocol

from stepwell.domain.errors import UnavailableError
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.ports import ReadyRun, UpkeepStore

PAGE = 1_000
PERIOD = 1.0  # seconds: a thousand runs a second
QUIET = 2.0  # seconds, once every queued run was compared
NIL = "00000000-0000-0000-0000-000000000000"


class Marked(Protocol):
    """A ready queue that can tell whether it was emptied since it was marked."""

    async def mark(self) -> bool:
        """Mark the queue; whether the mark was still there."""


class ReAdder:
    """Walks the queued runs by cursor; after a loss it does not pause between pages."""

    name = "re-adder"

    def __init__(self, store: UpkeepStore, offers: Offers, queue: Marked) -> None:
        self._store = store
        self._offers = offers
        self._queue = queue
        self._cursor = ("", NIL)
        self._hurry = True

    def reset(self) -> None:
        """Begin with the first page, without pauses."""
        self._cursor = ("", NIL)
        self._hurry = True

    async def run(self) -> float:
        """See Job."""
        try:
            if not await self._queue.mark():
                self.reset()
        except UnavailableError:
            self._hurry = True
            return PERIOD
        page = await self._store.queued_after(*self._cursor, PAGE)
        if not await self._offers.add(page):
            return PERIOD
        self._advance(page)
        if self._hurry:
            return 0.0
        return QUIET if len(page) < PAGE else PERIOD

    def _advance(self, page: list[ReadyRun]) -> None:
        if len(page) < PAGE:
            self._cursor = ("", NIL)
            self._hurry = False
        else:
            self._cursor = (page[-1].namespace, page[-1].id)
