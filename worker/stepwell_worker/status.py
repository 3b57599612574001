"""What a worker's process knows of itself, for its readiness and its gauges."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from stepwell.domain.errors import StepwellError
from stepwell.engine.dispatch import Dispatcher
from stepwell.engine.maintenance.leader import Leader
from stepwell.engine.ports import UpkeepStore
from stepwell.engine.trust import Trust
from stepwell.metrics.worker import Reading

LOOK = 60.0  # seconds between two looks at tomorrow's partitions
LOOK_AGAIN = 2.0  # seconds while they are missing or nobody answered

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Life:
    """A worker under one id."""

    slots: int
    trust: Trust
    dispatcher: Dispatcher
    leader: Leader


@dataclass(slots=True)
class Status:
    """Filled in by the process; outlives its worker's lives. Reading it costs nothing and asks nobody."""

    schema: str | None = "it was not looked at yet"
    """Why nothing may be claimed from the database as it is; None: its schema is this version's."""

    tomorrow: bool = False
    """Whether tomorrow's partitions existed at the last look."""

    life: Life | None = None
    """The worker, once it is registered."""

    def told(self, schema: str | None) -> None:
        """Note why the schema does not fit, None where it does."""
        self.schema = schema

    def missing(self) -> dict[str, str]:
        """What readiness lacks, with why; nothing: ready."""
        found: dict[str, str] = {}
        if self.schema is not None:
            found["schema"] = self.schema
        if self.life is None:
            found["worker"] = "it is not registered in the database"
            return found
        if self.life.dispatcher.draining:
            found["worker"] = "it drains and takes no more runs"
        if not self.life.trust.holds():
            found["heartbeat"] = "the last one that the database confirmed is too old; nothing is claimed or started"
        if not self.tomorrow:
            found["partitions"] = "tomorrow's were not seen; the leader makes them"
        return found

    def reading(self) -> Reading | None:
        """The gauges of the worker."""
        life = self.life
        if life is None:
            return None
        dispatcher = life.dispatcher
        return Reading(
            slots=life.slots,
            busy=dispatcher.busy,
            backlog=dispatcher.journal.backlog,
            leads=life.leader.leads,
            redis=dispatcher.with_queue,
            trusted=life.trust.holds(),
        )

    async def watch_partitions(self, store: UpkeepStore) -> None:
        """Look for ever; cancelled to stop. What was seen stands while nobody answers: the heartbeat tells of that."""
        while True:
            try:
                self.tomorrow = await store.tomorrow_exists()
                seen = self.tomorrow
            except StepwellError as exc:
                log.debug("tomorrow's partitions: %s", exc)
                seen = False
            await asyncio.sleep(LOOK if seen else LOOK_AGAIN)
