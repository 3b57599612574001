"""The run protocol on PostgreSQL: ``RunStore`` of the engine, one statement a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import orjson

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.session import Row, Session
from stepwell.domain.errors import NotFoundError
from stepwell.domain.states import RunStatus
from stepwell.engine.ports import (
    AttemptRecord,
    ClaimedRun,
    End,
    FlushEntry,
    Kept,
    Park,
    RecordedAttempt,
    StoredRevision,
    Turn,
)

_SQL = queries.load("runs")
_REVISION = queries.load("workflows")["revision"]


def uuid_array(ids: Iterable[str]) -> str:
    """The text of a uuid[]: sent with an unknown type, it is a constant to the planner."""
    return "{" + ",".join(ids) + "}"


def bigint_array(numbers: Iterable[int]) -> str:
    """The text of a bigint[]: to convert a list takes psycopg as long as all the rest of a statement's parameters."""
    return "{" + ",".join(map(str, numbers)) + "}"


def _fragment(document: bytes | None) -> orjson.Fragment | None:
    return None if document is None else orjson.Fragment(document)


class PostgresRunStore:
    """Claims and flushes go over a session each, so that neither waits for the other."""

    def __init__(self, claims: Session, journal: Session) -> None:
        self._claims = claims
        self._journal = journal
        self.unsupported: set[int] = set()

    async def claim(self, worker: int, ids: Sequence[str], token: int) -> list[ClaimedRun]:
        """See RunStore."""
        params = {
            "worker": worker,
            "ids": uuid_array(ids),
            "token": token,
            "unsupported": bigint_array(self.unsupported),
        }
        return _runs(await self._claims.execute(_SQL["claim"], params))

    async def claim_oldest(self, worker: int, limit: int, token: int) -> list[ClaimedRun]:
        """See RunStore."""
        params = {"worker": worker, "token": token, "limit": limit, "unsupported": bigint_array(self.unsupported)}
        return _runs(await self._claims.execute(_SQL["claim_oldest"], params))

    async def claim_suspects(self, worker: int, limit: int, token: int) -> list[ClaimedRun]:
        """See RunStore."""
        params = {"worker": worker, "limit": limit, "token": token}
        return _runs(await self._claims.execute(_SQL["claim_suspects"], params))

    async def claimed(self, worker: int, token: int) -> list[ClaimedRun]:
        """See RunStore."""
        return _runs(await self._claims.execute(_SQL["claimed"], {"worker": worker, "token": token}))

    async def attempts(self, ids: Sequence[str]) -> list[RecordedAttempt]:
        """See RunStore."""
        rows = await self._claims.execute(_SQL["attempts"], {"ids": uuid_array(ids)})
        return [RecordedAttempt(*row) for row in rows]

    async def revision(self, revision_id: int) -> StoredRevision:
        """See RunStore."""
        rows = await self._claims.execute(_REVISION, {"revision": revision_id})
        if not rows:
            message = f"there is no revision {revision_id}"
            raise NotFoundError(message)
        return StoredRevision(*rows[0])

    async def flush(self, worker: int, entries: Sequence[FlushEntry]) -> dict[str, Kept]:
        """See RunStore."""
        params = {"worker": worker, "ids": uuid_array(e.run_id for e in entries), **flush_sets(entries)}
        rows = await self._journal.execute_once(_SQL["flush"], params)
        return {row[0]: Kept(row[1], row[2], row[3], row[4]) for row in rows}

    async def cancel(self, namespace: str, ids: Sequence[str]) -> dict[str, str]:
        """See CancelStore."""
        rows = await self._claims.execute(_SQL["cancel"], {"namespace": namespace, "ids": uuid_array(ids)})
        return {row[0]: row[1] for row in rows}

    async def cancel_requested(self, ids: Sequence[str]) -> list[str]:
        """Those of these runs whose cancel was acknowledged."""
        rows = await self._claims.execute(_SQL["cancel_requested"], {"ids": uuid_array(ids)})
        return [row[0] for row in rows]

    async def owned(self, worker: int) -> dict[str, int]:
        """See RunStore."""
        rows = await self._claims.execute(_SQL["owned"], {"worker": worker})
        return {row[0]: row[1] for row in rows}

    async def hand_back(self, worker: int, runs: dict[str, int], *, begun: bool = True) -> list[str]:
        """See RunStore."""
        rows = await self._claims.execute(_SQL["hand_back"], {"worker": worker, "begun": begun, **claims_set(runs)})
        return [row[0] for row in rows]


def _runs(rows: list[Row]) -> list[ClaimedRun]:
    return [ClaimedRun(*row) for row in rows]


def claims_set(runs: Mapping[str, int]) -> dict[str, str]:
    """Runs with their fences: the list of ids and the record set."""
    record_set = orjson.dumps([{"id": i, "fence": f} for i, f in runs.items()]).decode()
    return {"ids": uuid_array(runs), "runs": record_set}


def flush_sets(entries: Sequence[FlushEntry]) -> dict[str, str]:
    """The record sets of a flush, one JSON parameter each."""
    ends = [_end_row(e.run_id, e.end) for e in entries if e.end is not None]
    ends += [_turn_row(e.run_id, e.turn) for e in entries if e.turn is not None]
    parks = [_park_row(e.run_id, e.park) for e in entries if e.park is not None]
    return {
        "runs": orjson.dumps([{"id": e.run_id, "fence": e.fence} for e in entries]).decode(),
        "attempts": orjson.dumps([_attempt_row(e.run_id, a) for e in entries for a in e.attempts]).decode(),
        "ends": orjson.dumps(ends).decode(),
        "parks": orjson.dumps(parks).decode(),
    }


def _end_row(run_id: str, end: End) -> dict[str, object]:
    row: dict[str, object] = {
        "id": run_id,
        "status": end.status,
        "finished_at": end.finished_at,
        "retain": end.retain,
        "output": _fragment(end.output),
        "output_from": end.output_from,
        "error": _fragment(end.error),
    }
    return row | {"kept": True} if end.kept else row


def _turn_row(run_id: str, turn: Turn) -> dict[str, object]:
    """The run goes on: nothing of it is finished but its steps."""
    row: dict[str, object] = {"kept": True} if turn.outcome is None else _end_row(run_id, turn.outcome)
    return row | {
        "id": run_id,
        "status": RunStatus.RUNNING,
        "finished_at": None,
        "outcome": row.get("status"),
        "handlers": turn.part,
        "handlers_at": turn.at,
        "handlers_until": turn.until,
    }


def _park_row(run_id: str, park: Park) -> dict[str, object]:
    row: dict[str, object] = {"id": run_id, "wakes": park.wakes, "due_at": park.due_at}
    return row if park.until is None else row | {"until": park.until}


def _attempt_row(run_id: str, attempt: AttemptRecord) -> dict[str, object]:
    row: dict[str, object] = {
        "run_id": run_id,
        "step": attempt.step,
        "attempt": attempt.attempt,
        "status": attempt.status,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
    }
    if attempt.retry_at is not None:
        row["retry_at"] = attempt.retry_at
    if attempt.item >= 0:
        row["item"] = attempt.item
    if attempt.items is not None:
        row["items"] = attempt.items
    for name in ("input_from", "input", "output", "error", "http"):
        document = getattr(attempt, name)
        if document is not None:
            row[name] = orjson.Fragment(document)
    return row
