"""The store of the leader's jobs, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.run_store import claims_set, uuid_array
from stepwell.adapters.postgres.session import Row, Session
from stepwell.domain.errors import ConflictError
from stepwell.domain.handlers import BUDGET, RECOVERIES
from stepwell.engine.ports import PRIORITIES, LiveCount, ReadyRun, Reaped

_SQL = queries.load("maintenance")
_RUNS = queries.load("runs")
_LIVENESS = queries.load("liveness")


class PostgresUpkeepStore:
    """``UpkeepStore`` of the engine, one statement a method."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def lead(self, name: str, holder: int, term: float) -> bool:
        """See UpkeepStore."""
        params = {"name": name, "holder": holder, "term": f"{term} seconds"}
        return bool(await self._session.execute(_SQL["lead"], params))

    async def resign(self, name: str, holder: int) -> None:
        """See UpkeepStore."""
        await self._session.execute(_SQL["resign"], {"name": name, "holder": holder})

    async def wake_due(self, limit: int) -> tuple[list[ReadyRun], float | None]:
        """See UpkeepStore."""
        rows = await self._session.execute(_SQL["due"], {"limit": limit})
        ids = [row[0] for row in rows if row[0] is not None]
        later = next((row[1] for row in rows if row[0] is None), None)
        if not ids:
            return [], later
        woken = _ready(await self._session.execute(_SQL["wake_due"], {"ids": uuid_array(ids)}))
        return woken, 0.0 if len(ids) == limit else later

    async def wake(self, ids: Sequence[str]) -> list[ReadyRun]:
        """See UpkeepStore."""
        return _ready(await self._session.execute(_RUNS["wake"], {"ids": uuid_array(ids)}))

    async def counters(self) -> dict[int, int]:
        """See UpkeepStore."""
        return {row[0]: row[1] for row in await self._session.execute(_SQL["counters"])}

    async def declare_dead(self, worker: int, counter: int) -> bool:
        """See UpkeepStore."""
        params = {"worker": worker, "counter": counter}
        return bool(await self._session.execute(_SQL["declare_dead"], params))

    async def orphans(self) -> dict[str, int]:
        """See UpkeepStore."""
        return {row[0]: row[1] for row in await self._session.execute(_SQL["orphans"])}

    async def reap(self, orphans: Mapping[str, int], deaths: int) -> list[Reaped]:
        """See UpkeepStore."""
        limits = {"deaths": deaths, "recoveries": RECOVERIES, "budget": timedelta(microseconds=BUDGET)}
        rows = await self._session.execute(_SQL["reap"], {**limits, **claims_set(orphans)})
        return [Reaped(_ready_run(row), row[4], row[5] > 0, row[6]) for row in rows]

    async def forget_workers(self) -> None:
        """See UpkeepStore."""
        await self._session.execute(_SQL["forget_workers"])

    async def queued_page(self, after: tuple[str, str], limit: int) -> tuple[list[ReadyRun], tuple[str, str] | None]:
        """See UpkeepStore."""
        namespace, run_id = after
        rows = await self._session.execute(_SQL["queued_page"], {"namespace": namespace, "id": run_id, "limit": limit})
        full = bool(rows) and rows[-1][5] == limit
        return _ready(rows), (rows[-1][1], rows[-1][0]) if full else None

    async def live_counts(self, after: tuple[str, str], limit: int) -> tuple[list[LiveCount], tuple[str, str] | None]:
        """See UpkeepStore."""
        namespace, run_id = after
        rows = await self._session.execute(_SQL["live_counts"], {"namespace": namespace, "id": run_id, "limit": limit})
        counts = [LiveCount(row[0], row[1], row[2], max(0.0, row[3])) for row in rows]
        return counts, (rows[0][5], rows[0][6]) if rows and rows[0][4] else None

    async def stranded(self) -> list[str]:
        """See UpkeepStore."""
        return [row[0] for row in await self._session.execute(_SQL["stranded"])]

    async def wake_stranded(self, ids: Sequence[str]) -> list[ReadyRun]:
        """See UpkeepStore."""
        return _ready(await self._session.execute(_SQL["wake_stranded"], {"ids": uuid_array(ids)}))

    async def add_partitions(self, days: int) -> int:
        """See UpkeepStore."""
        rows = await self._session.execute(_SQL["add_partitions"], {"days": days})
        return int(rows[0][0])

    async def tomorrow_exists(self) -> bool:
        """See UpkeepStore."""
        rows = await self._session.execute(_SQL["tomorrow_exists"])
        return bool(rows[0][0])

    async def expired_page(self, after: str, limit: int) -> tuple[list[str], str | None]:
        """See UpkeepStore."""
        rows = await self._session.execute(_SQL["expired_runs"], {"after": after, "limit": limit})
        return [row[0] for row in rows if row[1]], rows[-1][0] if len(rows) == limit else None

    async def delete_runs(self, ids: Sequence[str]) -> int:
        """See UpkeepStore."""
        rows = await self._session.execute(_SQL["delete_runs"], {"ids": uuid_array(ids)})
        return int(rows[0][0])

    async def delete_keys(self, limit: int) -> int:
        """See UpkeepStore."""
        return len(await self._session.execute(_SQL["delete_keys"], {"limit": limit}))

    async def past_days(self) -> list[str]:
        """See UpkeepStore."""
        return [row[0] for row in await self._session.execute(_SQL["past_days"])]

    async def drop_day(self, day: str) -> bool:
        """See UpkeepStore."""
        try:
            rows = await self._session.execute(_SQL["drop_day"], {"day": day})
        except ConflictError:
            return False
        return bool(rows[0][0])


def _ready(rows: list[Row]) -> list[ReadyRun]:
    """Rows of (id, namespace, priority, created in ms, status) that are queued."""
    return [_ready_run(row) for row in rows if row[4] == "queued"]


def _ready_run(row: Row) -> ReadyRun:
    return ReadyRun(row[0], row[1], row[3], PRIORITIES[row[2]])
