"""Keeps the ledger of runs up to date from the database."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from stepwell.domain.ids import uuid7
from stepwell_operator.workflows.tally import LAST, Ledger, RunCounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stepwell.adapters.postgres.resource_store import RunGroup, RunPage

PAGE = 20_000  # runs that one statement reads
AGAIN = 5_000  # live ones that one statement looks at
MOST_AGAIN = 50_000  # of them at one look; the others have their turn at the next
PAUSE = 0.05  # seconds between two pages of old history
UNSETTLED = 30.0  # seconds in which a run with an older id may still be committed
ANEW = 3_600.0  # seconds after which all is counted anew


class History(Protocol):
    """What is read of runs. Raises UnavailableError."""

    async def count(self, after: str, until: str, page: int) -> RunPage:
        """The runs between two ids, at most ``page`` of them."""

    async def recount(self, ids: Sequence[str]) -> list[RunGroup]:
        """Each of these runs as it is now."""


class Counting:
    """``counts`` answers from memory, None until all history was read once."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._ledger: Ledger | None = None
        self._made_at = 0.0

    def counts(self, workflow: int, now: float) -> RunCounts | None:
        """The runs of a workflow at a Unix time."""
        return None if self._ledger is None else self._ledger.counts(workflow, now)

    async def look(self, now: float) -> None:
        """Bring it up to date. Raises UnavailableError."""
        ledger = self._ledger
        settled = uuid7(max(0, int((now - UNSETTLED) * 1000)), bytes(10))
        if ledger is None or now - self._made_at > ANEW:
            ledger = Ledger()
            await self._settle(ledger, settled, PAUSE)
        await self._settle(ledger, settled, 0.0)
        await self._look_again(ledger)
        ledger.recent([group async for page in self._pages(ledger.after, LAST, 0.0) for group in page.groups])
        if ledger is not self._ledger:
            self._ledger, self._made_at = ledger, now

    async def _settle(self, ledger: Ledger, until: str, pause: float) -> None:
        if until <= ledger.after:
            return
        async for page in self._pages(ledger.after, until, pause):
            ledger.settle(page.groups)
            ledger.after = page.last or ledger.after
        ledger.after = until

    async def _pages(self, after: str, until: str, pause: float) -> AsyncIterator[RunPage]:
        while True:
            page = await self._history.count(after, until, PAGE)
            yield page
            if page.size < PAGE or page.last is None:
                return
            after = page.last
            await asyncio.sleep(pause)

    async def _look_again(self, ledger: Ledger) -> None:
        """The oldest first; those that stay live go to the end."""
        asked = list(islice(ledger.live, MOST_AGAIN))
        for start in range(0, len(asked), AGAIN):
            ids = asked[start : start + AGAIN]
            ledger.look_again(ids, await self._history.recount(ids))
            for run_id in ids:
                if run_id in ledger.live:
                    ledger.live[run_id] = ledger.live.pop(run_id)
