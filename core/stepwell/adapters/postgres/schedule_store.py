"""The store of schedules and ticks, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.run_store import uuid_array
from stepwell.adapters.postgres.session import Session
from stepwell.domain.ids import deterministic_uuid7
from stepwell.engine.intake import input_hash
from stepwell.engine.ports import PRIORITIES
from stepwell.engine.schedules import DueSchedule, Fired, Look, Move, NewSchedule, ScheduleChange, Tick, TickRow

_SQL = queries.load("schedules")
_NUMBERS = {name: number for number, name in PRIORITIES.items()}


class PostgresScheduleStore:
    """``ScheduleStore`` of the engine, one statement a method; ``keep_keys`` in seconds."""

    def __init__(self, session: Session, keep_keys: float = 86_400.0) -> None:
        self._session = session
        self._keep = f"{keep_keys} seconds"

    async def look(self, now: int, limit: int, unsupported: Sequence[int]) -> Look:
        """See ScheduleStore."""
        params = {"now": now, "limit": limit, "unsupported": list(unsupported)}
        rows = await self._session.execute(_SQL["look"], params)
        due = [DueSchedule(*row) for row in rows if row[1] is not None]
        next_at = next((row[3] for row in rows if row[0] is not None and row[1] is None), None)
        clock, changed = next((row[3], row[4]) for row in rows if row[0] is None)
        return Look(changed is not None, due, next_at, clock)

    async def has_partition(self, day: str) -> bool:
        """See ScheduleStore."""
        rows = await self._session.execute(_SQL["has_partition"], {"day": day})
        return bool(rows[0][0])

    async def changes(self, after: int, limit: int) -> list[ScheduleChange]:
        """See ScheduleStore."""
        rows = await self._session.execute(_SQL["changes"], {"after": after, "limit": limit})
        return [ScheduleChange(*row) for row in rows]

    async def bring_up_to_date(self, changes: Mapping[int, int], schedules: Sequence[NewSchedule]) -> int:
        """See ScheduleStore."""
        seen = [{"workflow_id": workflow, "number": number} for workflow, number in changes.items()]
        params = {"workflows": list(changes), "changes": _json(seen), "schedules": record_set(schedules)}
        rows = await self._session.execute(_SQL["bring_up_to_date"], params)
        return int(rows[0][0])

    async def started(
        self, schedules: Sequence[DueSchedule], limit: int
    ) -> dict[tuple[int, str], list[tuple[int, str]]]:
        """See ScheduleStore."""
        params = {"schedules": record_set(schedules), "limit": limit}
        found: dict[tuple[int, str], list[tuple[int, str]]] = {}
        for workflow_id, trigger, tick_at, run_id in await self._session.execute(_SQL["started"], params):
            found.setdefault((workflow_id, trigger), []).append((tick_at, run_id))
        return found

    async def live(self, ids: Sequence[str]) -> set[str]:
        """See ScheduleStore."""
        return {row[0] for row in await self._session.execute(_SQL["live"], {"ids": uuid_array(ids)})}

    async def fire(self, now: int, moves: Sequence[Move], ticks: Sequence[Tick]) -> Fired:
        """See ScheduleStore."""
        rows = await self._session.execute(_SQL["fire"], fire_sets(now, moves, ticks, self._keep))
        moved = {(row[0], row[1]) for row in rows if row[2] is None}
        return Fired(moved, {(row[0], row[1], row[2]) for row in rows if row[2] is not None and row[3]})

    async def old_ticks(self, before: int, after: TickRow, limit: int) -> list[TickRow]:
        """See ScheduleStore."""
        params = {
            "before": before,
            "limit": limit,
            "decided_at": after.decided_at,
            "workflow": after.workflow_id,
            "trigger": after.trigger,
            "tick_at": after.tick_at,
        }
        return [TickRow(*row) for row in await self._session.execute(_SQL["old_ticks"], params)]

    async def delete_ticks(self, ticks: Sequence[TickRow]) -> None:
        """See ScheduleStore."""
        params = {"workflows": list({tick.workflow_id for tick in ticks}), "ticks": record_set(ticks)}
        await self._session.execute(_SQL["delete_ticks"], params)


def fire_sets(now: int, moves: Sequence[Move], ticks: Sequence[Tick], keep: str) -> dict[str, object]:
    """The parameters of a batch."""
    return {
        "now": now,
        "workflows": list({move.workflow_id for move in moves}),
        "moves": record_set(moves),
        "ticks": _json([_row(tick) for tick in ticks]),
        "keep": keep,
    }


def record_set(rows: Sequence[Move] | Sequence[NewSchedule] | Sequence[DueSchedule] | Sequence[TickRow]) -> str:
    """Rows as one JSON parameter."""
    return _json([row._asdict() for row in rows])


def _json(rows: Sequence[Mapping[str, object]]) -> str:
    return orjson.dumps(rows).decode()


def _row(tick: Tick) -> dict[str, object]:
    row: dict[str, object] = {"workflow_id": tick.workflow_id, "trigger": tick.trigger, "tick_at": tick.tick_at}
    run = tick.run
    if run is None:
        return row | {"reason": tick.reason, "message": tick.message}
    row |= {
        "run_id": run.id,
        "revision_id": run.revision_id,
        "namespace": run.namespace,
        "priority": _NUMBERS[run.priority],
        "event_id": deterministic_uuid7(int(run.id.replace("-", "")[:12], 16), f"{run.id}/event"),
        "input": orjson.Fragment(run.input),
    }
    if run.key is not None:
        row |= {"key": run.key, "input_hash": input_hash(run.input).hex()}
    return row
