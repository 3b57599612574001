"""WorkflowRun objects and their runs in PostgreSQL, as the operator asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.run_store import uuid_array

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import date, datetime

    from stepwell.adapters.postgres.session import Session
    from stepwell.domain.documents import JsonObject, JsonValue

_SQL = queries.load("run_objects")
MAX_OUTPUT = 4 * 1024  # bytes of an output that a status shows
PAGE = 1_000


class RunState(NamedTuple):
    """A run as the poll sees it; ``status`` is a word of ``RunStatus``."""

    status: str
    cancelling: bool


class RunDetails(NamedTuple):
    """A run as a status shows it; ``error`` holds ``reason``, ``message`` and, where there is one, ``step``.

    ``output`` is None as well where there is none, and where it has more than `MAX_OUTPUT` bytes. Of a waiting run, ``due_at``
    is when it goes on by itself, and ``approval`` a step that asks for one.
    """

    id: str
    status: str
    started_at: datetime | None
    finished_at: datetime | None
    error: JsonObject | None = None
    output: JsonValue = None
    output_too_large: bool = False
    due_at: datetime | None = None
    approval: str | None = None


class StepAttempt(NamedTuple):
    """One attempt of a step that ended, or (``item`` from 0 on) of one of its items. ``retry_at`` is set where another one
    follows.
    """

    step: str
    attempt: int
    status: str
    started_at: datetime
    finished_at: datetime
    retry_at: datetime | None = None
    message: str | None = None
    item: int = -1


class KnownObject(NamedTuple):
    """An object that a run was accepted for."""

    uid: str
    run_id: str
    namespace: str
    name: str


class RunObjectStore:
    """Over one session. Raises UnavailableError where PostgreSQL does not answer; every call may be repeated."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def states(self, ids: Collection[str]) -> dict[str, RunState]:
        """How the runs stand that exist, by id. Reads what it is asked for and nothing else."""
        rows = await self._session.execute(_SQL["states"], {"ids": uuid_array(ids)})
        return {row[0]: RunState(row[1], row[2]) for row in rows}

    async def started(self, uids: Collection[str]) -> set[str]:
        """Which of these objects a run was ever accepted for."""
        rows = await self._session.execute(_SQL["started"], {"uids": list(uids)})
        return {row[0] for row in rows}

    async def details(self, ids: Collection[str]) -> dict[str, tuple[RunDetails, list[StepAttempt]]]:
        """The runs that exist with their steps, by id."""
        params = {"ids": uuid_array(ids), "max_output": MAX_OUTPUT}
        # The run before its steps: these are then at least as new as it, so an end comes with all of them.
        found = await self._session.execute(_SQL["details"], params)
        steps = await self._session.execute(_SQL["steps"], params)
        runs: dict[str, tuple[RunDetails, list[StepAttempt]]] = {row[0]: (RunDetails(*row), []) for row in found}
        for run_id, *attempt in steps:
            if run_id in runs:
                runs[run_id][1].append(StepAttempt(*attempt))
        return runs

    async def known(self, after: str = "") -> list[KnownObject]:
        """A page of the objects that a run was accepted for, by uid; shorter than `PAGE`: the last one."""
        rows = await self._session.execute(_SQL["objects_page"], {"after": after, "limit": PAGE})
        return [KnownObject(*row) for row in rows]

    async def forget(self, uids: Collection[str]) -> None:
        """Forget objects that are gone."""
        await self._session.execute(_SQL["forget"], {"uids": list(uids)})

    async def make_days(self, days: Sequence[date]) -> None:
        """Make the partitions of these days where they are missing."""
        await self._session.execute(_SQL["make_days"], {"days": list(days)})
