"""Compares cluster and database both ways: whatever was missed on the way of events is made up for here."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from stepwell.adapters.postgres.resource_store import GoneResource
from stepwell_operator.workflows.decide import Synced

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stepwell.adapters.postgres.resource_store import ResourceName, SyncedResource
    from stepwell.metrics.operator import OperatorMetrics
    from stepwell_operator.workflows.cluster import Listed
    from stepwell_operator.workflows.entries import Entries
    from stepwell_operator.workflows.resource import Resource
    from stepwell_operator.workflows.syncer import Syncer

log = logging.getLogger(__name__)


class Known(Protocol):
    """The database. Raises UnavailableError."""

    async def known(self) -> dict[ResourceName, SyncedResource]:
        """Everything that was synced and still stands."""


class Objects(Protocol):
    """The cluster. Raises UnavailableError."""

    async def listed(self) -> Sequence[Listed]:
        """All objects that are not being deleted, as they were at some moment after the call began."""

    async def read(self, name: ResourceName) -> Resource | None:
        """The object as it is now, None where it is gone or being deleted."""


class Sweep:
    """``run`` once is one comparison."""

    def __init__(
        self, known: Known, objects: Objects, entries: Entries, syncer: Syncer, metrics: OperatorMetrics
    ) -> None:
        self._known = known
        self._objects = objects
        self._entries = entries
        self._syncer = syncer
        self._metrics = metrics

    async def run(self, *, changes: bool = True) -> None:
        """Raises UnavailableError. Without ``changes`` only deletions are looked for: the watch's first list brings the rest."""
        # In this order: what the database or we know of stood in the cluster before it is asked, so its absence there can
        # only mean that it was deleted.
        began = time.monotonic()
        known = await self._known.known()
        held = {entry.uid: entry.name for entry in self._entries.all() if entry.heard_at < began}
        listed = await self._objects.listed()
        self._bury(known, held, {each.uid for each in listed})
        if not changes:
            return
        missed = [each for each in listed if self._missed(each, known, began)]
        for each in missed:
            resource = await self._objects.read(each.name)
            if resource is not None:
                self._syncer.forget(each.name)
                self._syncer.observe(resource)
        self._count("missed_change", len(missed))

    def _bury(
        self, known: Mapping[ResourceName, SyncedResource], held: Mapping[str, ResourceName], there: set[str]
    ) -> None:
        """Whose object is gone."""
        gone = {synced.uid: name for name, synced in known.items() if synced.uid not in there}
        unheard = {uid: name for uid, name in held.items() if uid not in there}
        for uid, name in (gone | unheard).items():
            self._syncer.gone(GoneResource(name, uid, None))
        self._count("missed_delete", len(gone))

    def _missed(self, each: Listed, known: Mapping[ResourceName, SyncedResource], began: float) -> bool:
        """Whether an object's state is neither in the database nor on its way there."""
        entry = self._entries.get(each.name)
        if entry is None or entry.uid != each.uid:
            return True
        if max(entry.heard_at, entry.settled_at) >= began or self._syncer.waits(each.name):
            return False
        if entry.generation < each.generation or entry.outcome is None:
            return True
        standing = known.get(each.name)  # an earlier state where the database was restored, or a failover lost commits
        stands = standing is not None and (standing.uid, standing.digest) == (each.uid, entry.digest)
        return isinstance(entry.outcome, Synced) and not stands

    def _count(self, found: str, number: int) -> None:
        if number:
            log.info("the sweep found %s of %d Workflows", found.replace("_", " "), number)
        for _ in range(number):
            self._metrics.swept(found)
