"""What a status says beside its spec: runs, next ticks, secrets. Looked at together, written rarely."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stepwell.domain.errors import StepwellError
from stepwell_operator.workflows.decide import Facts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from stepwell.domain.secrets import Trouble
    from stepwell_operator.workflows.counting import Counting
    from stepwell_operator.workflows.entries import Entries, Entry
    from stepwell_operator.workflows.showing import Showing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often; seconds, and writes a second for all objects together."""

    look: float = 10.0
    per_object: float = 60.0
    rate: float = 10.0


class Ticks(Protocol):
    """When cron triggers are due next. Raises UnavailableError."""

    async def next_ticks(self) -> Mapping[int, Mapping[str, datetime]]:
        """By workflow and trigger."""


class Secrets(Protocol):
    """What workers and gateways met. Raises UnavailableError."""

    async def troubles(self) -> Mapping[int, Sequence[Trouble]]:
        """The workflows whose secrets could not be used; all others are well."""


class Refresh:
    """One look after another; what changed is written in turn, the longest unwritten first."""

    def __init__(
        self, entries: Entries, counting: Counting, ticks: Ticks, secrets: Secrets, showing: Showing, pace: Pace
    ) -> None:
        self._entries = entries
        self._counting = counting
        self._ticks = ticks
        self._secrets = secrets
        self._showing = showing
        self._pace = pace
        self._ticks_seen: Mapping[int, Mapping[str, datetime]] | None = None
        self._troubles_seen: Mapping[int, Sequence[Trouble]] | None = None

    async def run(self) -> None:
        """For ever; cancelled to stop."""
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except StepwellError as exc:
                log.info("the runs of Workflows are not counted now: %s", exc)
            await asyncio.sleep(max(0.0, began + self._pace.look - time.monotonic()))

    async def look(self) -> None:
        """Read all facts, and have what changed written, no faster than it may be."""
        await self._counting.look(time.time())
        self._ticks_seen = await self._ticks.next_ticks()
        self._troubles_seen = await self._secrets.troubles()
        for entry in self._entries.all():
            if entry.facts == Facts():
                entry.facts = self.facts(entry)
        self._showing.begun.set()
        due = [(entry, facts) for entry in self._entries.all() if (facts := self._other_facts(entry)) is not None]
        due.sort(key=lambda item: item[0].refreshed_at)
        for entry, facts in due[: max(1, int(self._pace.look * self._pace.rate))]:
            entry.facts, entry.refreshed_at = facts, time.monotonic()
            self._showing.wanted(entry)
            await asyncio.sleep(1 / self._pace.rate)

    def facts(self, entry: Entry) -> Facts:
        """All that is known beside the spec."""
        workflow = entry.workflow_id
        if workflow is None:
            return Facts()
        return Facts(
            runs=self._counting.counts(workflow, time.time()),
            ticks=None if self._ticks_seen is None else self._ticks_seen.get(workflow, {}),
            troubles=None if self._troubles_seen is None else self._troubles_seen.get(workflow, ()),
        )

    def settled(self, entry: Entry) -> None:
        """The outcome of an object is new: it is written with the facts that go with it, if those were never told."""
        if entry.facts == Facts():
            entry.facts = self.facts(entry)
        self._showing.wanted(entry)

    def _other_facts(self, entry: Entry) -> Facts | None:
        """The facts, if they are worth a write by now."""
        if entry.workflow_id is None or time.monotonic() - entry.refreshed_at < self._pace.per_object:
            return None
        facts = self.facts(entry)
        return None if self._showing.decided(entry, facts) is None else facts
