"""How many runs of a namespace are queued, as a gateway believes it for a moment."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from stepwell.domain.errors import StepwellError, UnavailableError
from stepwell.engine.rates import RateStore

FRESH = 1.0  # seconds that a count is believed
FRESH_ALONE = 5.0  # seconds, where PostgreSQL had to count
CAPACITY = 10_000  # namespaces

log = logging.getLogger(__name__)


class Counting(Protocol):
    """Who counts while Redis is away."""

    async def queued(self, namespace: str, limit: int) -> int:
        """How many runs of the namespace are queued, ``limit`` at most. Raises UnavailableError."""


@dataclass(slots=True)
class _Known:
    queued: int
    until: float
    asking: asyncio.Task[None] | None = None


class Backlogs:
    """Redis is asked once a second for each namespace that starts runs. What this process starts is added meanwhile."""

    def __init__(self, store: RateStore, counting: Counting, limit: int) -> None:
        self._store = store
        self._counting = counting
        self._limit = limit
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def queued(self, namespace: str) -> int:
        """How many runs are queued; 0 where nobody can tell."""
        known = self._known.get(namespace)
        if known is None:
            known = self._known[namespace] = _Known(0, 0.0)
            if len(self._known) > CAPACITY:
                self._known.popitem(last=False)
            known.asking = asyncio.ensure_future(self._ask(namespace, known))
            await asyncio.shield(known.asking)
        elif known.asking is None and time.monotonic() > known.until:
            known.asking = asyncio.ensure_future(self._ask(namespace, known))
        return known.queued

    def started(self, namespace: str) -> None:
        """A run was started here."""
        known = self._known.get(namespace)
        if known is not None:
            known.queued += 1

    async def _ask(self, namespace: str, known: _Known) -> None:
        try:
            known.queued, fresh = await self._count(namespace)
            known.until = time.monotonic() + fresh
        except StepwellError as exc:
            log.debug("the backlog of %s is not known: %s", namespace, exc)
            known.until = time.monotonic() + FRESH
        finally:
            known.asking = None

    async def _count(self, namespace: str) -> tuple[int, float]:
        try:
            return (await self._store.queued([namespace]))[namespace], FRESH
        except UnavailableError:
            return await self._counting.queued(namespace, self._limit + 1), FRESH_ALONE
