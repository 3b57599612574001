"""Waiting for the ends of runs: one statement a period for all who wait, never one poller each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from stepwell.domain.documents import JsonObject, JsonValue
from stepwell.domain.errors import StepwellError

PERIOD = 0.05  # seconds between two looks, while somebody has begun to wait lately
LATER = 0.25  # seconds between two looks, where all have waited for longer
LATELY = 5.0  # seconds

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """How a run ended."""

    status: str
    output: JsonValue
    error: JsonObject | None


class OutcomeStore(Protocol):
    """Where the ends of runs are read."""

    async def ended(self, ids: Sequence[str]) -> Mapping[str, Outcome]:
        """Those of the runs that ended. Raises UnavailableError."""


class Outcomes:
    """Watches runs while somebody waits for them."""

    def __init__(self, store: OutcomeStore) -> None:
        self._store = store
        self._waiting: defaultdict[str, set[asyncio.Future[Outcome]]] = defaultdict(set)
        self._last = 0.0
        self._watching: asyncio.Task[None] | None = None

    async def wait(self, run_id: str, seconds: float, stopping: asyncio.Event) -> Outcome | None:
        """How the run ended; None where it has not within ``seconds``, or the process stops."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        stopped = asyncio.ensure_future(stopping.wait())
        self._waiting[run_id].add(answer)
        self._last = time.monotonic()
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        both: list[asyncio.Future[Any]] = [answer, stopped]
        try:
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            stopped.cancel()
            self._waiting[run_id].discard(answer)
            if not self._waiting[run_id]:
                del self._waiting[run_id]

    async def _watch(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(PERIOD if time.monotonic() - self._last < LATELY else LATER)
                await self._look()
        finally:
            self._watching = None

    async def _look(self) -> None:
        try:
            ended = await self._store.ended(list(self._waiting)) if self._waiting else {}
        except StepwellError as exc:
            log.info("the ends of runs cannot be read right now: %s", exc)
            return
        for run_id, outcome in ended.items():
            for answer in self._waiting.get(run_id, ()):
                if not answer.done():
                    answer.set_result(outcome)
