"""What happened: runs and their steps, read from PostgreSQL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stepwell.adapters.postgres import queries
from stepwell.domain.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from stepwell.adapters.postgres.session import Row, Session
    from stepwell.domain.documents import JsonObject, JsonValue

_SQL = queries.load("history")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RunState:
    """A run without its documents. ``status`` is a word of ``RunStatus``."""

    id: str
    namespace: str
    workflow: str
    status: str
    trigger: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunRecord(RunState):
    """A run with its documents; ``error`` holds ``reason``, ``message`` and, where there is one, ``step``."""

    input: JsonObject
    output: JsonValue
    error: JsonObject | None
    revision_id: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One attempt of a step that ended. ``retry_at`` is set where another one follows; ``items`` is how many items the step
    has, of one with `forEach`.
    """

    step: str
    item_index: int
    attempt: int
    status: str
    started_at: datetime
    finished_at: datetime
    retry_at: datetime | None
    error: JsonObject | None
    http: JsonObject | None
    items: int | None = None
    input: JsonValue = None
    output: JsonValue = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs to list. ``cursor`` is the one that the page before gave."""

    namespace: str | None = None
    workflow: str | None = None
    status: str | None = None
    since: datetime | None = None
    cursor: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Page:
    """A page of runs, newest first; ``cursor`` leads to the next one (None: this is the last)."""

    runs: list[RunState]
    cursor: str | None


class HistoryStore:
    """Reads over one session. Raises NotFoundError, UsageError for a cursor that is none, and UnavailableError where
    PostgreSQL does not answer.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def page(self, selection: Selection) -> Page:
        """A page of runs. A workflow is named together with its namespace."""
        params: dict[str, object] = {
            "namespace": selection.namespace,
            "workflow": selection.workflow,
            "status": selection.status,
            "since": selection.since or _FIRST,
            "before": _place(selection.cursor) if selection.cursor else _LAST,
            "limit": selection.limit + 1,
        }
        if selection.workflow is None:
            rows = await self._session.execute(_SQL["page"], params)
        else:
            rows = await self._page_of_workflow(params)
        runs = [RunState(*row) for row in rows[: selection.limit]]
        return Page(runs, runs[-1].id if len(rows) > selection.limit else None)

    async def _page_of_workflow(self, params: dict[str, object]) -> list[Row]:
        names = {key: params[key] for key in ("namespace", "workflow")}
        found = await self._session.execute(_SQL["workflow_id"], names)
        return await self._session.execute(_SQL["of_workflow"], {**params, "workflow_id": found[0][0]}) if found else []

    async def run(self, run_id: str) -> RunRecord:
        """One run with its documents."""
        rows = await self._session.execute(_SQL["run"], {"run": checked_id(run_id)})
        if not rows:
            raise unknown_run(run_id)
        return RunRecord(*rows[0])

    async def state(self, run_id: str) -> RunState:
        """One run without its documents."""
        rows = await self._session.execute(_SQL["state"], {"run": checked_id(run_id)})
        if not rows:
            raise unknown_run(run_id)
        return RunState(*rows[0])

    async def steps(self, run_id: str, *, documents: bool = True) -> list[StepRecord]:
        """Every attempt of the run's steps that ended, in the order of their ends."""
        query = _SQL["steps" if documents else "step_states"]
        rows = await self._session.execute(query, {"run": checked_id(run_id)})
        return [StepRecord(*row) for row in rows]

    async def spec(self, revision_id: int) -> JsonObject:
        """The spec of a revision."""
        rows = await self._session.execute(_SQL["spec"], {"revision": revision_id})
        if not rows:
            message = f"there is no revision {revision_id}"
            raise NotFoundError(message)
        spec: JsonObject = rows[0][0]
        return spec


def checked_id(run_id: str) -> str:
    """A run's id as PostgreSQL writes it. Raises NotFoundError for text that cannot be one."""
    lowered = run_id.strip().lower()
    if not _ID.match(lowered):
        raise unknown_run(run_id)
    return lowered


def _place(cursor: str) -> str:
    if not _ID.match(cursor.lower()):
        message = f"{cursor} is no cursor: give the one that the page before ended with"
        raise UsageError(message)
    return cursor.lower()


def unknown_run(run_id: str) -> NotFoundError:
    """The error of an id that is no run's, or not of this namespace: they look alike."""
    message = f"there is no run {run_id}"
    return NotFoundError(message)
