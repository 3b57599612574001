"""Rates: how often something may happen, counted by all processes together, or each for itself while Redis is away.

A limit slides: what counts is the present window of its length and the share of the last one that still lies within the
length of time that ends now. What is refused is not counted.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from stepwell.domain.errors import UnavailableError
from stepwell.engine.together import Together

ALONE = 2.0  # seconds that a process counts for itself before it asks Redis again
CAPACITY = 10_000  # windows that it remembers then

log = logging.getLogger(__name__)


class Limit(NamedTuple):
    """At most ``most`` in ``per_ms`` milliseconds, under a name."""

    name: str
    most: int
    per_ms: int


Refusal: TypeAlias = tuple[int, int]
"""Which of the limits refuses, and the milliseconds after which it may not."""


class RateStore(Protocol):
    """Where all processes count."""

    async def take(self, requests: Sequence[Sequence[Limit]]) -> list[Refusal | None]:
        """For each request: counted by all its limits (None), or refused by one of them. Raises UnavailableError."""

    async def queued(self, namespaces: Sequence[str]) -> dict[str, int]:
        """How many runs wait for workers, by namespace. Raises UnavailableError."""


class _Request:
    """Equal to itself only: two that want the same are two."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = limits


class Rates:
    """Asks the store for all who ask meanwhile at once."""

    def __init__(self, store: RateStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._together: Together[_Request, Refusal] = Together(self._take)
        self._alone = Windows()
        self._alone_until = 0.0

    async def take(self, limits: Sequence[Limit]) -> Refusal | None:
        """Count one by all these limits, or tell which one refuses it."""
        return await self._together.get(_Request(limits)) if limits else None

    async def _take(self, requests: Sequence[_Request]) -> dict[_Request, Refusal]:
        wanted = [request.limits for request in requests]
        answers: list[Refusal | None] | None = None
        if self._clock() >= self._alone_until:
            try:
                answers = await self._store.take(wanted)
            except UnavailableError as exc:
                log.warning("rates are counted by this process alone for now: %s", exc)
                self._alone_until = self._clock() + ALONE
        if answers is None:
            now = int(self._clock() * 1000)
            answers = [self._alone.take(limits, now) for limits in wanted]
        return {request: answer for request, answer in zip(requests, answers, strict=True) if answer is not None}


class Windows:
    """The counts of one process."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, int], int] = OrderedDict()

    def take(self, limits: Sequence[Limit], now_ms: int) -> Refusal | None:
        """As the store does it."""
        for which, limit in enumerate(limits):
            window, elapsed = divmod(now_ms, limit.per_ms)
            present = self._counts.get((limit.name, window), 0)
            last = self._counts.get((limit.name, window - 1), 0)
            wait = waiting_time(present, last, elapsed, limit)
            if wait > 0:
                return which, wait
        for limit in limits:
            key = (limit.name, now_ms // limit.per_ms)
            self._counts[key] = self._counts.pop(key, 0) + 1
        while len(self._counts) > CAPACITY:
            self._counts.popitem(last=False)
        return None


def waiting_time(present: int, last: int, elapsed: int, limit: Limit) -> int:
    """Milliseconds until one more is allowed; 0: now."""
    _, most, per = limit
    if last * (per - elapsed) / per + present + 1 <= most:
        return 0
    if present + 1 <= most:
        return math.ceil(per - (most - present - 1) * per / last - elapsed)
    return math.ceil(per - elapsed + per - (most - 1) * per / present)
