"""Writes statuses: one write brings an object all that is to be said of it, and nothing is written twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from stepwell.domain.errors import DataRefusedError, NotFoundError, UnavailableError
from stepwell.engine.crashpoints import crashpoint
from stepwell_operator.events import Subject
from stepwell_operator.workflows.decide import Observed, announcements, decide

if TYPE_CHECKING:
    from stepwell.adapters.postgres.resource_store import ResourceName
    from stepwell.metrics.operator import OperatorMetrics
    from stepwell_operator.workflows.decide import Facts, Status
    from stepwell_operator.workflows.entries import Entries, Entry

WRITERS = 16  # writes at once
FACTS = 5.0  # seconds that the first writes wait for them, lest a second write bring them
AGAIN = 2.0  # seconds after one that failed

log = logging.getLogger(__name__)


class Shows(Protocol):
    """The cluster."""

    async def show(self, name: ResourceName, status: Status) -> tuple[int, Status]:
        """Make this the object's status; its new resource version, and the status as it is stored."""


class Tells(Protocol):
    """Events."""

    def post(self, subject: Subject, reason: str, message: str, *, warning: bool = False) -> None:
        """Post an event soon."""


class Showing:
    """``wanted`` marks an object; the writers find out whether its status is to be written, and write it."""

    def __init__(
        self, cluster: Shows, entries: Entries, events: Tells, metrics: OperatorMetrics, base_url: str
    ) -> None:
        self._cluster = cluster
        self._entries = entries
        self._events = events
        self._metrics = metrics
        self._base_url = base_url
        self.begun = asyncio.Event()
        self._queue: asyncio.Queue[ResourceName] = asyncio.Queue()
        self._queued: set[ResourceName] = set()
        self._busy: set[ResourceName] = set()

    def wanted(self, entry: Entry) -> None:
        """Something about it may have changed."""
        if entry.name not in self._queued:
            self._queued.add(entry.name)
            if entry.name not in self._busy:
                self._queue.put_nowait(entry.name)

    def decided(self, entry: Entry, facts: Facts | None = None) -> Status | None:
        """The status that it is to have (with other ``facts``), None where it has it already or nothing is known yet."""
        if entry.outcome is None:
            return None
        observed = Observed(entry.name, entry.generation, entry.status, entry.outcome, facts or entry.facts)
        status = decide(observed, self._base_url, datetime.now(UTC))
        return None if status in (entry.status, entry.asked) else status

    async def run(self) -> None:
        """One of the writers, for ever; cancelled to stop. It waits until facts are known, if they come soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FACTS):
                await self.begun.wait()
        while True:
            name = await self._queue.get()
            self._queued.discard(name)
            self._busy.add(name)
            try:
                await self._write(name)
            finally:
                self._busy.discard(name)
                if name in self._queued:
                    self._queue.put_nowait(name)

    async def _write(self, name: ResourceName) -> None:
        entry = self._entries.get(name)
        status = None if entry is None else self.decided(entry)
        if entry is None or status is None:
            return
        before = entry.status
        crashpoint("operator_before_status")
        try:
            version, stored = await self._cluster.show(name, status)
        except UnavailableError as exc:
            log.warning("%s; its status is written later", exc)
            self._metrics.status_write("Workflow", "failed")
            await asyncio.sleep(AGAIN)
            self.wanted(entry)
            return
        except NotFoundError:
            return  # the watch tells
        except DataRefusedError as exc:
            log.error("%s", exc)  # noqa: TRY400 - it is the API server that says why
            self._metrics.status_write("Workflow", "failed")
            return
        crashpoint("operator_after_status")
        self._metrics.status_write("Workflow", "written")
        entry.asked = status
        if version >= entry.version:
            entry.version, entry.status = version, stored
        subject = Subject("Workflow", name.namespace, name.name, entry.uid)
        for announcement in announcements(before, status):
            self._events.post(subject, announcement.reason, announcement.message, warning=announcement.warning)
