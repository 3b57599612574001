"""Answers that are believed for some seconds, each asked for once by whoever wants it meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

SWEEP = 1.0  # seconds between two looks for answers that are to be forgotten

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Asked = Coroutine[Any, Any, tuple[V, float]]
"""An answer, and for how many seconds since it was asked for it is believed."""


@dataclass(slots=True)
class _Flight(Generic[V]):
    """A question that is being asked, and how many wait."""

    task: asyncio.Task[V]
    waiting: int = 0


class Answers(Generic[K, V]):
    """At most ``entries`` answers that together weigh ``weight``; what was used longest ago goes first.

    An answer's time counts from when it was asked for. It is forgotten soon after, also where nobody asks again.
    """

    def __init__(
        self,
        *,
        entries: int,
        weight: int | None = None,
        weigh: Callable[[V], int] = lambda _: 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries = entries
        self._limit = weight
        self._weigh = weigh
        self._monotonic = monotonic
        self._weight = 0
        self._known: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._flights: dict[K, _Flight[V]] = {}
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._known)

    async def get(self, key: K, ask: Callable[[], Asked[V]]) -> V:
        """The answer, asked for only where none is known and nobody asks already. What ``ask`` raises is not kept."""
        known = self._known.get(key)
        if known is not None and self._monotonic() < known[0]:
            self._known.move_to_end(key)
            return known[1]
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(self._fill(key, ask)))
        return await self._awaited(key, flight)

    async def _awaited(self, key: K, flight: _Flight[V]) -> V:
        """One who gives up leaves the others their answer; the last one ends the question."""
        flight.waiting += 1
        try:
            await asyncio.wait([flight.task])
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                flight.task.cancel()
        return flight.task.result()

    async def _fill(self, key: K, ask: Callable[[], Awaitable[tuple[V, float]]]) -> V:
        began = self._monotonic()
        value, seconds = await ask()
        self._keep(key, began + seconds, value)
        return value

    def _keep(self, key: K, until: float, value: V) -> None:
        self._drop(key)
        weight = self._weigh(value)
        if self._limit is not None and weight > self._limit:
            return
        self._known[key] = (until, value)
        self._weight += weight
        while len(self._known) > self._entries or (self._limit is not None and self._weight > self._limit):
            self._drop(next(iter(self._known)))
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _drop(self, key: K) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._weight -= self._weigh(known[1])

    def _sweep(self) -> None:
        now = self._monotonic()
        for key in [key for key, (until, _) in self._known.items() if until <= now]:
            self._drop(key)
        self._sweeping = bool(self._known)
        if self._sweeping:
            asyncio.get_running_loop().call_later(SWEEP, self._sweep)
