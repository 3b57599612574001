"""Questions that are asked together: who asks while one call is under way shares the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from stepwell.domain.errors import StepwellError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_ASKED = 1_000  # in one call


class Together(Generic[K, V]):
    """One call of ``load`` at a time, for all keys that gathered meanwhile. What it does not return is None."""

    def __init__(self, load: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._load = load
        self._asked: dict[K, asyncio.Future[V | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """The value of a key. Raises what ``load`` raises."""
        waiting = self._asked.get(key)
        if waiting is None:
            waiting = self._asked[key] = asyncio.get_running_loop().create_future()
            waiting.add_done_callback(_seen)
            if self._asking is None:
                self._asking = asyncio.ensure_future(self._ask())
        return await asyncio.shield(waiting)

    async def _ask(self) -> None:
        batch: dict[K, asyncio.Future[V | None]] = {}
        try:
            while self._asked:
                batch = dict(list(self._asked.items())[:MAX_ASKED])
                for key in batch:
                    del self._asked[key]
                await self._answer(batch)
        finally:
            self._asking = None
            for waiting in (*batch.values(), *self._asked.values()):
                waiting.cancel()  # nothing, where it was answered
            self._asked.clear()

    async def _answer(self, batch: dict[K, asyncio.Future[V | None]]) -> None:
        try:
            found = await self._load(list(batch))
        except StepwellError as exc:
            for waiting in batch.values():
                waiting.set_exception(type(exc)(str(exc)))  # one each, for each gathers its own trace
            return
        except Exception as exc:  # noqa: BLE001 - a defect is theirs who asked, and the next may still ask
            for waiting in batch.values():
                waiting.set_exception(exc)
            return
        for key, waiting in batch.items():
            waiting.set_result(found.get(key))


def _seen(waiting: asyncio.Future[V | None]) -> None:
    """Whoever waited may be gone: then nobody else asks for the error."""
    if not waiting.cancelled():
        waiting.exception()
