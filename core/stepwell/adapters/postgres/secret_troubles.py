"""What workers and gateways met when they used Secrets, on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import orjson

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.session import Session
from stepwell.domain.secrets import NO_NOTES, SecretNotes, Trouble
from stepwell.engine.secret_troubles import Met, Standing, TroubleNotes, Use

AGE = 172_800.0  # seconds after which what nobody met again is forgotten: two days

_SQL = queries.load("secret_troubles")


class SecretTroubles:
    """What the operator's statuses show. Raises UnavailableError."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def troubles(self) -> dict[int, list[Trouble]]:
        """By the workflow's number, in the order of the Secrets' names; a workflow that is not there met no trouble.

        Only what was met since the active revision became active, in the last two days, and not found to be fine since.
        """
        found: dict[int, list[Trouble]] = {}
        for workflow_id, reason, message in await self._session.execute(_SQL["troubles"], {"age": AGE}):
            found.setdefault(workflow_id, []).append(Trouble(reason, message))
        return found


class PostgresTroubleStore:
    """``TroubleStore`` of the engine for one kind of process, ``worker`` or ``gateway``: their rights differ."""

    def __init__(self, session: Session, reader: str) -> None:
        self._session = session
        self._reader = reader

    async def standing(self, limit: int) -> dict[Use, Standing]:
        """See TroubleStore."""
        rows = await self._session.execute(_SQL["standing"], {"reader": self._reader, "limit": limit})
        return {Use(*row[:3]): Standing(row[3], row[4]) for row in rows}

    async def write(self, troubles: Mapping[Use, Met], fine: Sequence[Use]) -> None:
        """See TroubleStore. Two statements: each may be repeated."""
        if troubles:
            rows = [use._asdict() | {"reason": met.reason, "message": met.message} for use, met in troubles.items()]
            await self._session.execute(_SQL["note"], self._params(rows))
        if fine:
            await self._session.execute(_SQL["settle"], self._params([use._asdict() for use in fine]))

    async def tidy(self) -> None:
        """See TroubleStore."""
        await self._session.execute(_SQL["tidy"], {"age": AGE})

    def _params(self, rows: list[dict[str, str]]) -> dict[str, str]:
        return {"reader": self._reader, "rows": orjson.dumps(rows).decode()}


@asynccontextmanager
async def noting(dsn: str, reader: str, *, wanted: bool) -> AsyncIterator[SecretNotes]:
    """Notes that are written over a connection of their own while the block runs; not ``wanted``: none are taken."""
    if not wanted:
        yield NO_NOTES
        return
    async with Session(dsn, "secrets") as session:
        notes = TroubleNotes(PostgresTroubleStore(session, reader))
        writing = asyncio.ensure_future(notes.run())
        try:
            yield notes
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
