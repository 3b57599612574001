"""What the API shows: pages of runs and workflows, one run, its steps, the progress of many. Always of a namespace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.history_store import checked_id, unknown_run
from stepwell.adapters.postgres.run_store import uuid_array
from stepwell.domain.errors import NotFoundError
from stepwell.domain.states import RunStatus

if TYPE_CHECKING:
    from stepwell.adapters.postgres.sessions import Executes
    from stepwell.domain.documents import JsonObject, JsonValue

_SQL = queries.load("reading")
_LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_LIVE = frozenset({RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING})

MAX_PAGE_BYTES = 4 << 20  # of documents, after which a page of steps ends


class RunSummary(NamedTuple):
    """A run without its documents. ``reason`` and ``failed_step`` are of its error, which else is left out."""

    id: str
    namespace: str
    workflow: str
    status: str
    trigger: str
    priority: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    retry_of: str | None
    rerun_of: str | None
    reason: str | None
    failed_step: str | None


class RunDocuments(NamedTuple):
    """What a run was given and what it gave."""

    input: JsonObject
    output: JsonValue
    error: JsonObject | None


class Attempt(NamedTuple):
    """An attempt of a step that ended. ``copied``: taken over from the run that this one repeats; ``items``: how many items the
    step has, of one with `forEach`.
    """

    step: str
    item_index: int
    attempt: int
    status: str
    started_at: datetime
    finished_at: datetime
    retry_at: datetime | None
    copied: bool
    items: int | None
    error: JsonObject | None
    http: JsonObject | None
    input: JsonValue
    output: JsonValue


class Progress(NamedTuple):
    """How far a run is: ``recorded`` attempts ended."""

    id: str
    status: str
    started_at: datetime | None
    finished_at: datetime | None
    recorded: int


class WorkflowSummary(NamedTuple):
    """A workflow that is not deleted; ``spec`` is its active revision's where it was asked for."""

    name: str
    suspended: bool
    created_at: datetime
    updated_at: datetime
    revision_id: int
    description: str | None
    spec: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list: those before the one of id ``before``, newest first."""

    namespace: str
    workflow: str | None = None
    status: RunStatus | None = None
    since: datetime | None = None
    before: str | None = None
    limit: int = 50


class RunReader:
    """Raises NotFoundError, and UnavailableError where PostgreSQL does not answer."""

    def __init__(self, session: Executes) -> None:
        self._session = session

    async def page(self, wanted: RunFilter) -> list[RunSummary]:
        """A page of runs."""
        params = {
            "namespace": wanted.namespace,
            "workflow": wanted.workflow,
            "status": wanted.status,
            "since": max(wanted.since or _FIRST, _FIRST),
            "before": checked_id(wanted.before) if wanted.before else _LAST,
            "limit": wanted.limit,
        }
        rows = await self._session.execute(_SQL[_page_query(wanted.status)], params)
        return await self._runs(wanted.namespace, [row[0] for row in rows]) if rows else []

    async def run(self, namespace: str, run_id: str) -> RunSummary:
        """One run."""
        found = await self._runs(namespace, [checked_id(run_id)])
        if not found:
            raise unknown_run(run_id)
        return found[0]

    async def _runs(self, namespace: str, ids: Sequence[str]) -> list[RunSummary]:
        rows = await self._session.execute(_SQL["runs"], {"ids": uuid_array(ids), "namespace": namespace})
        return [RunSummary(*row) for row in rows]

    async def documents(self, run: RunSummary) -> RunDocuments:
        """The documents of a run that was read."""
        rows = await self._session.execute(_SQL["documents"], {"run": run.id, "namespace": run.namespace})
        if not rows:
            raise unknown_run(run.id)
        return RunDocuments(*rows[0])

    async def attempts(self, run: RunSummary, seen: int, limit: int, *, documents: bool) -> list[Attempt]:
        """Up to ``limit`` attempts after the first ``seen``; fewer where their documents are large, one at least."""
        params = {"run": run.id, "seen": seen, "limit": limit, "documents": documents, "bytes": MAX_PAGE_BYTES}
        rows = await self._session.execute(_SQL["steps"], params)
        return [Attempt(*row) for row in rows]

    async def progress(self, ids: Sequence[str]) -> dict[str, Progress]:
        """How far these runs are; absent: they are no more."""
        rows = await self._session.execute(_SQL["progress"], {"ids": uuid_array(ids)})
        return {row[0]: Progress(*row) for row in rows}

    async def workflows(self, namespace: str, after: str, limit: int) -> list[WorkflowSummary]:
        """A page by name."""
        params = {"namespace": namespace, "after": after, "limit": limit}
        return [WorkflowSummary(*row) for row in await self._session.execute(_SQL["workflows"], params)]

    async def workflow(self, namespace: str, name: str) -> WorkflowSummary:
        """One workflow, with its spec."""
        rows = await self._session.execute(_SQL["workflow"], {"namespace": namespace, "name": name})
        if not rows:
            message = f"there is no workflow {namespace}/{name}"
            raise NotFoundError(message)
        return WorkflowSummary(*rows[0])


def _page_query(status: RunStatus | None) -> str:
    """Each kind of status has an index that finds it; successes are common, so they are found on the way."""
    if status is None or status is RunStatus.SUCCEEDED:
        return "page"
    return "page_of_live" if status in _LIVE else "page_of_gone_wrong"
