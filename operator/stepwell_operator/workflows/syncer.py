"""Brings Workflows into the database: what comes at once goes in one batch, and what failed comes again by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stepwell.adapters.postgres.resource_store import GoneResource, NewResource
from stepwell.domain.errors import ConflictError, DataRefusedError, Problem, StepwellError, UnavailableError
from stepwell.engine.backoff import Backoff
from stepwell.engine.crashpoints import crashpoint
from stepwell_operator.workflows.decide import Invalid, Outcome, Synced, Unavailable
from stepwell_operator.workflows.resource import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell.adapters.postgres.resource_store import ResourceName, SyncedResource
    from stepwell.domain.action import Actions
    from stepwell.metrics.operator import OperatorMetrics
    from stepwell_operator.workflows.entries import Entries, Entry
    from stepwell_operator.workflows.resource import Resource

MAX_BATCH = 500  # resources in one transaction
MAX_BYTES = 4 << 20  # of their specs

log = logging.getLogger(__name__)


class Store(Protocol):
    """The database. Raises UnavailableError, and DataRefusedError where it takes a batch not at all."""

    async def known(self) -> dict[ResourceName, SyncedResource]:
        """Everything that was synced and still stands."""

    async def sync(self, resources: Sequence[NewResource]) -> dict[ResourceName, SyncedResource]:
        """Make these the active revisions; what is absent from the answer has to be tried again."""

    async def withdraw(self, resources: Sequence[GoneResource]) -> list[ResourceName]:
        """These objects are gone."""


@dataclass(slots=True)
class _Waiting:
    resource: Resource
    since: float
    tried: asyncio.Future[None]


class Syncer:
    """``on_outcome`` hears of every entry whose outcome is new, ``on_gone`` that something was withdrawn."""

    def __init__(
        self,
        store: Store,
        entries: Entries,
        actions: Actions,
        metrics: OperatorMetrics,
        *,
        on_outcome: Callable[[Entry], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._store = store
        self._entries = entries
        self._actions = actions
        self._metrics = metrics
        self._on_outcome = on_outcome
        self._on_gone = on_gone
        self._waiting: dict[ResourceName, _Waiting] = {}
        self._gone: dict[str, GoneResource] = {}
        self._known: dict[ResourceName, SyncedResource] | None = None
        self._work = asyncio.Event()

    def observe(self, resource: Resource) -> asyncio.Future[None]:
        """Sync it. The future ends once that was tried; where it failed, it is tried again and again."""
        now = time.monotonic()
        self._entries.take(resource, now)
        before = self._waiting.get(resource.name)
        tried = asyncio.get_running_loop().create_future()
        if before is not None:
            if not before.tried.done():
                before.tried.set_result(None)
            if before.resource.uid == resource.uid:
                now = before.since
        self._waiting[resource.name] = _Waiting(resource, now, tried)
        self._work.set()
        return tried

    def gone(self, resource: GoneResource) -> None:
        """The object is being deleted, or gone."""
        self._entries.drop(resource.name, resource.uid)
        waiting = self._waiting.get(resource.name)
        if waiting is not None and waiting.resource.uid == resource.uid:
            self._end(self._waiting.pop(resource.name))
        self._gone[resource.uid] = resource
        self._work.set()

    def waits(self, name: ResourceName) -> bool:
        """Whether a state of this object is still to be synced."""
        return name in self._waiting

    def forget(self, name: ResourceName) -> None:
        """What is held to stand in the database does not."""
        if self._known is not None:
            self._known.pop(name, None)

    async def run(self) -> None:
        """Sync for ever; cancelled to stop."""
        backoff = Backoff(initial=0.2, maximum=10.0)
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._step()
            except (UnavailableError, ConflictError) as exc:
                log.warning("%d Workflows wait to be synced: %s", len(self._waiting), exc)
                self._wait_all()
                self._work.set()
                await backoff.pause()
            else:
                backoff.reset()

    async def _step(self) -> None:
        if self._known is None:
            self._known = await self._store.known()
        if self._gone:
            await self._withdraw(list(self._gone.values()))
        while self._waiting:
            batch = await self._gather()
            if batch:
                await self._commit(batch)

    async def _withdraw(self, gone: list[GoneResource]) -> None:
        names = await self._store.withdraw(gone)
        crashpoint("operator_after_withdraw")
        for resource in gone:
            if self._gone.get(resource.uid) is resource:
                del self._gone[resource.uid]
            known = (self._known or {}).get(resource.name)
            if known is not None and known.uid == resource.uid and self._known is not None:
                del self._known[resource.name]
        for name in names:
            log.info("Workflow %s was deleted; nothing starts it any more", name)
        self._on_gone()

    async def _gather(self) -> list[tuple[_Waiting, NewResource]]:
        """The next batch, checked; what needs no database has its outcome at once."""
        batch: list[tuple[_Waiting, NewResource]] = []
        size = 0
        for waiting in list(self._waiting.values()):
            if len(batch) >= MAX_BATCH or size >= MAX_BYTES:
                break
            if self._waiting.get(waiting.resource.name) is not waiting:
                continue  # another state of it came while others were checked
            resource = waiting.resource
            known = (self._known or {}).get(resource.name)
            if known is not None and (known.uid, known.digest) == (resource.uid, resource.digest):
                self._settle(waiting, _synced(resource, known.revision_id), known.workflow_id)
                continue
            found = self._checked(resource)
            await asyncio.sleep(0)  # a check takes a millisecond or more, and others have work to do
            if self._waiting.get(resource.name) is not waiting:
                continue
            if isinstance(found, NewResource):
                batch.append((waiting, found))
                size += len(found.revision.spec)
            else:
                self._settle_invalid(waiting, found)
        return batch

    def _checked(self, resource: Resource) -> NewResource | list[Problem]:
        """A defect of ours that one resource brings to light must not stop the others, again at every restart."""
        try:
            return checked(resource, self._actions)
        except Exception as exc:
            log.exception("Workflow %s cannot be checked", resource.name)
            return [Problem("spec", f"could not be checked, which is a defect of Stepwell; please report it: {exc!r}")]

    async def _commit(self, batch: list[tuple[_Waiting, NewResource]]) -> None:
        crashpoint("operator_before_sync")
        try:
            synced = await self._store.sync([new for _, new in batch])
        except DataRefusedError as exc:
            await self._halve(batch, exc)
            return
        crashpoint("operator_after_sync")
        for waiting, _ in batch:
            found = synced.get(waiting.resource.name)
            if found is None:
                continue
            if self._known is not None:
                self._known[waiting.resource.name] = found
            self._metrics.synced(time.monotonic() - waiting.since)
            self._settle(waiting, _synced(waiting.resource, found.revision_id), found.workflow_id)

    async def _halve(self, batch: list[tuple[_Waiting, NewResource]], refusal: StepwellError) -> None:
        """One that the database refuses stops no other."""
        if len(batch) == 1:
            self._settle_invalid(batch[0][0], [Problem("spec", str(refusal))])
            return
        middle = len(batch) // 2
        await self._commit(batch[:middle])
        await self._commit(batch[middle:])

    def _settle_invalid(self, waiting: _Waiting, problems: Sequence[Problem]) -> None:
        known = (self._known or {}).get(waiting.resource.name)
        if known is None or known.uid != waiting.resource.uid:
            self._settle(waiting, Invalid(tuple(problems)), None)
        else:
            self._settle(waiting, Invalid(tuple(problems), known.revision_id), known.workflow_id)

    def _settle(self, waiting: _Waiting, outcome: Outcome, workflow_id: int | None) -> None:
        resource = waiting.resource
        if self._waiting.get(resource.name) is waiting:
            del self._waiting[resource.name]
        self._tell(resource, outcome, workflow_id)
        self._end(waiting)

    def _tell(self, resource: Resource, outcome: Outcome, workflow_id: int | None) -> None:
        entry = self._entries.get(resource.name)
        if entry is None or entry.uid != resource.uid:
            return
        entry.outcome, entry.settled_at = outcome, time.monotonic()
        entry.generation, entry.digest = resource.generation, resource.digest
        if workflow_id is not None:
            entry.workflow_id = workflow_id
        self._on_outcome(entry)

    def _wait_all(self) -> None:
        """The database is away: each says so, and its handler need not wait any longer."""
        for waiting in self._waiting.values():
            if not waiting.tried.done():
                self._tell(waiting.resource, Unavailable(), None)
                self._end(waiting)

    def _end(self, waiting: _Waiting) -> None:
        if not waiting.tried.done():
            waiting.tried.set_result(None)


def _synced(resource: Resource, revision: int) -> Synced:
    return Synced(revision, resource.triggers, resource.suspended)
