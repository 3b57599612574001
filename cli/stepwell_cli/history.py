"""Where runs are read: over a gateway that was named, else from the database that the environment or `dev` names."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from psycopg import ProgrammingError

from stepwell.adapters.postgres.history_store import HistoryStore
from stepwell.adapters.postgres.migrate import SchemaError, pending
from stepwell.adapters.postgres.session import Session
from stepwell.domain.errors import UnavailableError, UsageError
from stepwell.settings import read
from stepwell_cli.reach import reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.adapters.postgres.history_store import Page, RunRecord, RunState, Selection, StepRecord
    from stepwell.domain.documents import JsonObject
    from stepwell_cli.server.where import Where


class History(Protocol):
    """What happened. Raises NotFoundError or RefusedError for a run that is not there, UnavailableError."""

    async def page(self, selection: Selection) -> Page:
        """A page of runs, newest first."""

    async def run(self, run_id: str) -> RunRecord:
        """One run with its documents."""

    async def state(self, run_id: str) -> RunState:
        """One run without its documents."""

    async def steps(self, run_id: str, *, documents: bool = True) -> list[StepRecord]:
        """Every attempt of the run's steps that ended, in the order of their ends."""

    async def spec(self, revision_id: int) -> JsonObject:
        """The spec of the run's revision."""


@asynccontextmanager
async def history(where: Where) -> AsyncIterator[History]:
    """The runs that the command line means. Raises UsageError where it is not clear which."""
    if where.remote:
        from stepwell_cli.server.history import RemoteHistory
        from stepwell_cli.server.target import gateway

        async with gateway(where) as client:
            yield RemoteHistory(client)
        return
    settings, _ = reached(read(default_level="WARNING"))
    if settings.database_url is None:
        raise UsageError(
            "set DATABASE_URL, or go to a folder where `stepwell dev` runs: the runs are read from its database; or name a"
            " gateway by --server"
        )
    async with Session(settings.database_url, "reading runs") as session:
        try:
            yield HistoryStore(session)
        except UnavailableError as exc:
            unknown_name = isinstance(exc.__cause__, ProgrammingError)
            missing = await pending(settings.database_url) if unknown_name else ()
            if not missing:
                raise
            message = f"the database lacks the migrations {', '.join(missing)}; run `stepwell migrate`"
            raise SchemaError(message) from exc
