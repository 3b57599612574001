"""Removes what has expired: runs in batches, then whole days, and idempotency keys."""

from __future__ import annotations

import logging
import random

from stepwell.domain.errors import ConflictError
from stepwell.engine.ports import UpkeepStore

PERIOD = 900.0  # seconds between two walks over the history
PAGE = 1_000
PAUSE = 0.2  # seconds between two pages, so that retention is never the load
NIL = "00000000-0000-0000-0000-000000000000"

log = logging.getLogger(__name__)


class Retention:
    """Walks the history by id. Expired runs were hidden from readers the moment they expired."""

    name = "retention"

    def __init__(self, store: UpkeepStore) -> None:
        self._store = store
        self._cursor: str | None = NIL

    def reset(self) -> None:
        """Begin with the oldest run."""
        self._cursor = NIL

    async def run(self) -> float:
        """See Job."""
        if self._cursor is not None:
            expired, self._cursor = await self._store.expired_page(self._cursor, PAGE)
            if expired:
                log.info("removed %d expired runs", await self._store.delete_runs(expired))
            return PAUSE
        if await self._store.delete_keys(PAGE) == PAGE:
            return PAUSE
        for day in await self._store.past_days():
            try:
                dropped = await self._store.drop_day(day)
            except ConflictError as exc:  # somebody reads it; the next walk tries again
                log.info("the partitions of %s stay for now: %s", day, exc)
                continue
            if dropped:
                log.info("dropped the partitions of %s: everything of that day has expired", day)
        await self._store.forget_workers()
        self._cursor = NIL
        return jittered(PERIOD)


def jittered(seconds: float) -> float:
    """The time, give or take a tenth."""
    return seconds * (0.9 + 0.2 * random.random())  # noqa: S311 - spreads load
