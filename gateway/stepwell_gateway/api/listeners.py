"""Who listens to runs. One look at the database serves all of them, and there are only so many."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stepwell.domain.errors import StepwellError
from stepwell_gateway.problems import RETRY_AFTER, Problem

if TYPE_CHECKING:
    from stepwell.adapters.postgres.run_reader import Progress, RunReader

MOST = 500  # listeners of a process
PERIOD = 0.5  # seconds between two looks

log = logging.getLogger(__name__)


class Listener:
    """Waits for one run to be other than it was last seen."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._latest: Progress | None = None
        self._news = asyncio.Event()
        self.gone = False

    def tell(self, progress: Progress | None) -> None:
        """What a look found; None: the run is no more."""
        if progress is None:
            self.gone = True
        elif progress == self._latest:
            return
        self._latest = progress
        self._news.set()

    async def next(self) -> Progress | None:
        """The latest news, once there are some; None: the run is no more."""
        await self._news.wait()
        self._news.clear()
        return None if self.gone else self._latest


class Listeners:
    """Looks only while somebody listens."""

    def __init__(self, reader: RunReader, most: int = MOST, period: float = PERIOD) -> None:
        self._reader = reader
        self._most = most
        self._period = period
        self._all: set[Listener] = set()
        self._looking: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self.looks = 0

    @contextlib.contextmanager
    def listening(self, run_id: str) -> Iterator[Listener]:
        """A listener for the block. Raises Problem 503 where there are too many."""
        if len(self._all) >= self._most:
            raise Problem(503, "too many listen to runs already", headers={"Retry-After": str(RETRY_AFTER)})
        listener = Listener(run_id)
        self._all.add(listener)
        self._wanted.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look_for_ever())
        try:
            yield listener
        finally:
            self._all.discard(listener)
            if not self._all:
                self._looking.cancel()
                self._looking = None

    async def _look_for_ever(self) -> None:
        while True:
            self._wanted.clear()
            await self._look()
            with contextlib.suppress(TimeoutError):  # who has just come waits for no period
                await asyncio.wait_for(self._wanted.wait(), self._period)

    async def _look(self) -> None:
        listeners = list(self._all)
        try:
            found = await self._reader.progress(sorted({listener.run_id for listener in listeners}))
        except StepwellError as exc:
            log.info("the progress of runs cannot be read: %s", exc)
            return
        self.looks += 1
        for listener in listeners:
            listener.tell(found.get(listener.run_id))
