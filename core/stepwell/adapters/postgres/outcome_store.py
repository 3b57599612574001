"""What became of runs, as a gateway asks it: for many at once."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.run_store import uuid_array
from stepwell.adapters.postgres.session import Session
from stepwell.engine.outcomes import Outcome

_SQL = queries.load("webhooks")


class PostgresOutcomeStore:
    """Reads over one session. Raises UnavailableError."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def ended(self, ids: Sequence[str]) -> dict[str, Outcome]:
        """See OutcomeStore."""
        rows = await self._session.execute(_SQL["ended"], {"ids": uuid_array(ids)})
        return {row[0]: Outcome(*row[1:]) for row in rows}

    async def statuses(self, ids: Sequence[str]) -> dict[str, str]:
        """The words of ``RunStatus``; runs that are no longer kept are absent."""
        rows = await self._session.execute(_SQL["statuses"], {"ids": uuid_array(ids)})
        return {row[0]: row[1] for row in rows}

    async def queued(self, namespace: str, limit: int) -> int:
        """How many runs of the namespace are queued, ``limit`` at most."""
        rows = await self._session.execute(_SQL["queued"], {"namespace": namespace, "limit": limit})
        return int(rows[0][0])
