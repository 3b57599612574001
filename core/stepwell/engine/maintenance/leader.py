"""One worker leads: it holds a lease in the database and runs the maintenance jobs while it does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from stepwell.domain.errors import StepwellError
from stepwell.engine.backoff import Backoff
from stepwell.engine.maintenance.job import Job
from stepwell.engine.ports import UpkeepStore

LEASE = "maintenance"
TERM = 10.0  # seconds after its last renewal when the lease falls to another
RENEWAL = 0.3  # of the term between renewals; another takes over within 1.3 terms
TRUSTED = 0.9  # of the term in which the holder believes in its lease

log = logging.getLogger(__name__)


class Leader:
    """Campaigns for ever. ``leads`` tells whether this process leads now."""

    def __init__(self, store: UpkeepStore, holder: int, jobs: Sequence[Job], *, term: float = TERM) -> None:
        self._store = store
        self._holder = holder
        self._jobs = jobs
        self._term = term
        self._trusted_until = 0.0
        self._resigned = False

    @property
    def leads(self) -> bool:
        """Whether the lease is surely ours: anchored at the start of the last renewal."""
        return time.monotonic() < self._trusted_until

    async def run(self) -> None:
        """Renew the lease and run the jobs; cancelled to stop."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._campaign())
            for job in self._jobs:
                group.create_task(self._work(job))

    async def resign(self) -> None:
        """Let another take over at once, and campaign no more."""
        self._resigned = True
        self._trusted_until = 0.0
        await self._store.resign(LEASE, self._holder)

    async def _campaign(self) -> None:
        while not self._resigned:
            began = time.monotonic()
            try:
                won = await self._store.lead(LEASE, self._holder, self._term)
            except StepwellError as exc:
                log.warning("the maintenance lease: %s", exc)
                won = False
            won = won and not self._resigned
            if won and not self.leads:
                log.info("this worker leads")
                for job in self._jobs:
                    job.reset()
            if won:
                self._trusted_until = began + TRUSTED * self._term
            await asyncio.sleep(RENEWAL * self._term)

    async def _work(self, job: Job) -> None:
        backoff = Backoff(initial=0.5, maximum=5.0)
        while True:
            if not self.leads:
                await asyncio.sleep(min(0.5, RENEWAL * self._term))
                continue
            try:
                pause = await job.run()
                backoff.reset()
            except StepwellError as exc:
                log.warning("%s: %s", job.name, exc)
                pause = backoff.next()
            except Exception:  # a defect of one job must not end the others
                log.exception("%s failed", job.name)
                pause = backoff.next()
            await asyncio.sleep(pause)
