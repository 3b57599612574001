"""Suspects: runs whose last worker died while it executed them, and that had recorded nothing under its claim.

One of them may have killed it; most were neighbours. So those that are under suspicion for the first time run in groups,
which brings the neighbours of one death back within seconds, and whoever was in a group that died as well runs alone from
then on. Only what dies alone, again and again, is a poison pill.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from stepwell.domain.errors import StepwellError
from stepwell.engine.execution import Execution

GROUP = 50  # suspects of the first time at once
PAUSE = 2.0  # seconds between looks for suspects
LOOK = 0.1  # seconds between looks whether those that run have moved on

log = logging.getLogger(__name__)


class Suspects:
    """The suspects of one worker. ``claim(limit)`` claims and begins a group, or one alone, and tells how many."""

    def __init__(self, claim: Callable[[int], Awaitable[int]], may_claim: Callable[[], bool]) -> None:
        self._claim = claim
        self._may_claim = may_claim
        self._left = asyncio.Event()
        self.here: set[Execution] = set()

    def begun(self, execution: Execution) -> None:
        """The worker executes a suspect from now on."""
        self.here.add(execution)

    def gone(self, execution: Execution) -> None:
        """An execution left this worker."""
        if execution in self.here:
            self.here.discard(execution)
            self._left.set()

    async def run(self) -> None:
        """Execute one group after another, for ever: the next as soon as all have moved on or left."""
        while True:
            try:
                found = await self.take()
            except StepwellError as exc:
                log.warning("no suspects could be claimed: %s", exc)
                found = False
            self._left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), LOOK if found else PAUSE)

    async def take(self) -> bool:
        """Claim suspects, unless some of this worker's have not moved on yet. Whether it has any now."""
        if any(not execution.progressed for execution in self.here):
            return True
        return self._may_claim() and bool(await self._claim(GROUP))
