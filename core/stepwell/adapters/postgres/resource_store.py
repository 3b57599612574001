"""Workflow resources of a cluster, on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.run_store import uuid_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from stepwell.adapters.postgres.session import Session
    from stepwell.engine.apply import NewRevision

CANCELS = 500  # runs that one page of cancels names

_SQL = queries.load("resources")
_TALLIES = queries.load("tallies")


class ResourceName(NamedTuple):
    """An object's identity among those of its time: ``namespace/name``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class SyncedResource(NamedTuple):
    """A resource as it stands in the database."""

    uid: str
    digest: bytes
    workflow_id: int
    revision_id: int


class NewResource(NamedTuple):
    """A resource as it is to stand; ``cancels``: its deletion cancels its runs."""

    revision: NewRevision
    uid: str
    digest: bytes
    cancels: bool


class GoneResource(NamedTuple):
    """A resource that was deleted; ``cancels`` is None where nobody saw its last state."""

    name: ResourceName
    uid: str
    cancels: bool | None


class Cancel(NamedTuple):
    """Runs of a deleted resource that are to be cancelled."""

    workflow_id: int
    name: ResourceName
    before: datetime


class RunGroup(NamedTuple):
    """Runs of a workflow and status; ``until``: Unix time until which they are retained, None for one live run."""

    workflow_id: int
    status: str
    until: int | None
    number: int
    last: str


class RunPage(NamedTuple):
    """A page of history: its groups, how many runs it had, and the last id."""

    groups: list[RunGroup]
    size: int
    last: str | None


class ResourceStore:
    """Over one session. Raises UnavailableError where PostgreSQL does not answer; every call may be repeated."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def known(self) -> dict[ResourceName, SyncedResource]:
        """Everything that was synced and still stands."""
        rows = await self._session.execute(_SQL["known"])
        return {ResourceName(row[0], row[1]): SyncedResource(*row[2:]) for row in rows}

    async def sync(self, resources: Sequence[NewResource]) -> dict[ResourceName, SyncedResource]:
        """Make these revisions the active ones; what is absent from the answer has to be tried again."""
        revisions = _serialised(_revision_row(item.revision) for item in resources)
        await self._session.execute(_SQL["add_revisions"], {"resources": revisions})
        origins = _serialised(_origin_row(item) for item in resources)
        rows = await self._session.execute(_SQL["activate"], {"resources": origins})
        found = {ResourceName(row[0], row[1]): (row[2], row[3]) for row in rows}
        asked = {ResourceName(item.revision.namespace, item.revision.name): item for item in resources}
        return {name: SyncedResource(asked[name].uid, asked[name].digest, *ids) for name, ids in found.items()}

    async def withdraw(self, resources: Iterable[GoneResource]) -> list[ResourceName]:
        """Delete the workflows of objects that are gone; those that stood until now."""
        rows = [{**item.name._asdict(), "uid": item.uid, "cancels": item.cancels} for item in resources]
        found = await self._session.execute(_SQL["withdraw"], {"resources": _serialised(rows)})
        return [ResourceName(*row) for row in found]

    async def cancels(self) -> list[Cancel]:
        """The deletions whose runs are still to be cancelled."""
        rows = await self._session.execute(_SQL["cancels"])
        return [Cancel(row[0], ResourceName(row[1], row[2]), row[3]) for row in rows]

    async def to_cancel(self, cancel: Cancel) -> list[str]:
        """At most `CANCELS` ids of live runs whose cancel was not requested yet."""
        params = {
            "namespace": cancel.name.namespace,
            "workflow": cancel.workflow_id,
            "before": cancel.before,
            "limit": CANCELS,
        }
        return [row[0] for row in await self._session.execute(_SQL["to_cancel"], params)]

    async def cancelled(self, cancel: Cancel) -> None:
        """Nothing of it is left to be cancelled."""
        params = {"workflow": cancel.workflow_id, "before": cancel.before}
        await self._session.execute(_SQL["cancelled"], params)

    async def next_ticks(self) -> dict[int, dict[str, datetime]]:
        """When cron triggers are due next, by workflow and trigger."""
        found: dict[int, dict[str, datetime]] = {}
        for workflow, trigger, tick in await self._session.execute(_SQL["next_ticks"]):
            found.setdefault(workflow, {})[trigger] = tick
        return found

    async def count(self, after: str, until: str, page: int) -> RunPage:
        """The runs between two ids, at most ``page`` of them."""
        rows = await self._session.execute(_TALLIES["count"], {"after": after, "until": until, "page": page})
        groups = [RunGroup(*row) for row in rows if row[0] is not None]
        size, last = next((row[3], row[4]) for row in rows if row[0] is None)
        return RunPage(groups, size, last)

    async def recount(self, ids: Sequence[str]) -> list[RunGroup]:
        """Each of these runs as it is now; those that history lost are absent."""
        rows = await self._session.execute(_TALLIES["recount"], {"ids": uuid_array(ids)})
        return [RunGroup(*row) for row in rows]


def _serialised(rows: Iterable[Mapping[str, object]]) -> str:
    return orjson.dumps(list(rows)).decode()


def _revision_row(revision: NewRevision) -> dict[str, object]:
    return {
        "namespace": revision.namespace,
        "name": revision.name,
        "suspended": revision.suspended,
        "hash": revision.hash.hex(),
        "spec": orjson.Fragment(revision.spec),
        "features": list(revision.features),
        "retain_succeeded": revision.retain_succeeded,
        "retain_failed": revision.retain_failed,
    }


def _origin_row(item: NewResource) -> dict[str, object]:
    revision = item.revision
    return {
        "namespace": revision.namespace,
        "name": revision.name,
        "suspended": revision.suspended,
        "hash": revision.hash.hex(),
        "uid": item.uid,
        "digest": item.digest.hex(),
        "cancels": item.cancels,
    }
