"""The run protocol in memory: what queries/runs.sql does to rows, with breakdowns on demand.

For tests of everything around the store; the SQL itself is tested against PostgreSQL.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from stepwell.domain import handlers
from stepwell.domain.errors import DataRefusedError, NotFoundError, UnavailableError
from stepwell.domain.revision import Part
from stepwell.domain.states import RunStatus, StepStatus
from stepwell.engine.ports import (
    AttemptRecord,
    ClaimedRun,
    End,
    FlushEntry,
    Handling,
    Kept,
    Park,
    ReadyRun,
    RecordedAttempt,
    StoredRevision,
    Turn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")


@dataclass(slots=True)
class Row:
    """A row of ``runs``."""

    id: str
    created_at: int
    input: str = "{}"
    namespace: str = "default"
    revision_id: int = 1
    status: str = "queued"
    worker: int | None = None
    fence: int | None = None
    token: int | None = None
    claims: int = 0
    wakes: int = 0
    suspicion: int = 0
    cancelled_at: int | None = None
    due_at: int | None = None
    end: End | None = None
    finished_at: int | None = None
    outcome: End | None = None  # how the steps ended, while handlers run and after them
    part: int = 0
    at: int = 0
    until: int | None = None
    recoveries: int = 0

    @property
    def final(self) -> bool:
        return RunStatus(self.status).final


@dataclass(slots=True)
class Database:
    """All rows, shared by the stores of several workers. ``records`` holds every attempt with the fence it came under."""

    now: Callable[[], int]
    rows: dict[str, Row] = field(default_factory=dict)
    records: dict[str, dict[tuple[str, int, int], tuple[int, AttemptRecord]]] = field(default_factory=dict)
    revisions: dict[int, StoredRevision] = field(default_factory=dict)
    alive: set[int] = field(default_factory=set)
    fences: int = 0

    def add(self, run_id: str = "r1", **fields: object) -> Row:
        row = self.rows[run_id] = Row(run_id, self.now(), **fields)  # type: ignore[arg-type]
        self.records[run_id] = {}
        return row

    def attempts(self, run_id: str = "r1") -> list[AttemptRecord]:
        """The recorded attempts in the order in which they were recorded."""
        return [record for _, record in self.records[run_id].values()]

    def final_record(self, run_id: str, step: str) -> AttemptRecord | None:
        """The durable result of a step."""
        found = (a for a in self.attempts(run_id) if a.step == step and a.item < 0 and a.retry_at is None)
        return next(found, None)

    def change(self, row: Row, status: str) -> None:
        assert not row.final, f"a run that {row.status} changes to {status}"
        row.status = status
        if row.final:
            row.finished_at = self.now()

    def cancel(self, run_id: str) -> None:
        row = self.rows[run_id]
        if row.final:
            return
        row.cancelled_at = row.cancelled_at or self.now()
        if row.status == "running" or row.outcome is not None:
            return
        if row.claims and self.handlers(row):
            self.wake(run_id)
        else:
            self.change(row, "cancelled")

    def handlers(self, row: Row) -> list[int]:
        """The lists of handlers that its revision has."""
        stored = self.revisions.get(row.revision_id)
        spec = {} if stored is None else orjson.loads(stored.spec)
        return [part for part in (Part.ON_FAILURE, Part.FINALLY) if spec.get(part.word)]

    def wake(self, run_id: str) -> None:
        row = self.rows[run_id]
        if row.final:
            return
        row.wakes += 1
        if row.status == "waiting":
            row.due_at = None
            self.change(row, "queued")

    def reap(self) -> None:
        """Take back what runs under a worker that is not alive."""
        for row in self.rows.values():
            if row.status == "running" and row.worker not in self.alive:
                moved = any(fence == row.fence for fence, _ in self.records[row.id].values())
                row.suspicion = row.suspicion + 1 if not moved else 0
                self._take_back(row)

    def _take_back(self, row: Row) -> None:
        left = self.handlers(row)
        if row.outcome is not None:
            row.recoveries, row.until = row.recoveries + 1, self.now() + handlers.BUDGET
            left = [part for part in left if part > row.part]
            if row.recoveries > handlers.RECOVERIES and left:
                row.part, row.at, row.recoveries = left[0], self.now(), 0
            elif row.recoveries > handlers.RECOVERIES:
                status = row.outcome.status
                spoilt = status is RunStatus.SUCCEEDED
                self.change(row, RunStatus.FAILED if spoilt else status)
                row.end = row.outcome
                return
        elif row.cancelled_at is not None and not left:
            self.change(row, "cancelled")
            return
        self.change(row, "queued")


@dataclass(slots=True)
class Fault:
    """One breakdown of a statement; ``after``: it took effect, but its answer was lost."""

    statement: str
    error: Exception
    after: bool


class MemoryStore:
    """One worker's access to a Database. ``latency`` gives the seconds before and after each statement's effect.

    ``poison`` names runs, or steps as ``run/step``, whose rows are refused.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.unsupported: set[int] = set()
        self.not_begun: set[str] = set()
        self.faults: list[Fault] = []
        self.calls: list[str] = []
        self.flushed: list[list[FlushEntry]] = []
        self.latency: Callable[[str], tuple[float, float]] = lambda _: (0.0, 0.0)
        self.poison: set[str] = set()
        self.held: dict[str, asyncio.Event] = {}

    def breaks(self, statement: str, error: Exception | None = None, *, after: bool = False, times: int = 1) -> None:
        """The next calls of a statement fail."""
        self.faults += [Fault(statement, error or UnavailableError("away"), after)] * times

    def hold(self, statement: str) -> asyncio.Event:
        """Answers to a statement wait, after its effect, until the event is set."""
        self.held[statement] = asyncio.Event()
        return self.held[statement]

    async def _statement(self, name: str, effect: Callable[[], T]) -> T:
        self.calls.append(name)
        fault = next((f for f in self.faults if f.statement == name), None)
        if fault is not None:
            self.faults.remove(fault)
        before, after = self.latency(name)
        await asyncio.sleep(before)
        if fault is not None and not fault.after:
            raise fault.error
        result = effect()
        await asyncio.sleep(after)
        if name in self.held:
            await self.held[name].wait()
        if fault is not None:
            raise fault.error
        return result

    # -- claims --------------------------------------------------------------------------------------------------------

    async def claim(self, worker: int, ids: Sequence[str], token: int) -> list[ClaimedRun]:
        rows = [self.database.rows[i] for i in ids if i in self.database.rows]
        return await self._statement("claim", lambda: self._claim(worker, [r for r in rows if not r.suspicion], token))

    async def claim_oldest(self, worker: int, limit: int, token: int) -> list[ClaimedRun]:
        def effect() -> list[ClaimedRun]:
            queued = [r for r in self.database.rows.values() if r.status == "queued" and not r.suspicion]
            return self._claim(worker, [r for r in queued if r.revision_id not in self.unsupported][:limit], token)

        return await self._statement("claim_oldest", effect)

    async def claim_suspects(self, worker: int, limit: int, token: int) -> list[ClaimedRun]:
        def effect() -> list[ClaimedRun]:
            rows = [r for r in self.database.rows.values() if r.suspicion and r.status == "queued"][:limit]
            group = [r for r in rows if r is rows[0] or r.suspicion == rows[0].suspicion == 1]
            return self._claim(worker, group, token)

        return await self._statement("claim_suspects", effect)

    async def claimed(self, worker: int, token: int) -> list[ClaimedRun]:
        return await self._statement(
            "claimed", lambda: [self._claimed(r) for r in self._owned(worker) if r.token == token]
        )

    def _claim(self, worker: int, rows: Sequence[Row], token: int) -> list[ClaimedRun]:
        claimed = []
        for row in rows:
            if row.status == "queued" and row.revision_id not in self.unsupported:
                self.database.change(row, "running")
                self.database.fences += 1
                row.worker, row.token, row.fence = worker, token, self.database.fences
                row.claims += 1
                claimed.append(self._claimed(row))
        return claimed

    @staticmethod
    def _claimed(row: Row) -> ClaimedRun:
        assert row.fence is not None
        return ClaimedRun(
            row.id, row.fence, 1, row.revision_id, row.namespace, "test", row.input, row.created_at, row.wakes,
            row.claims, row.suspicion, row.cancelled_at is not None, handling=_handling(row),
        )  # fmt: skip

    def _owned(self, worker: int) -> list[Row]:
        return [r for r in self.database.rows.values() if r.status == "running" and r.worker == worker]

    # -- reading -------------------------------------------------------------------------------------------------------

    async def attempts(self, ids: Sequence[str]) -> list[RecordedAttempt]:
        def effect() -> list[RecordedAttempt]:
            found = [_recorded(i, a) for i in ids for a in self.database.attempts(i)]
            return sorted(found, key=lambda a: (a.run_id, a.finished_at, a.attempt))

        return await self._statement("attempts", effect)

    async def revision(self, revision_id: int) -> StoredRevision:
        def effect() -> StoredRevision:
            if revision_id not in self.database.revisions:
                raise NotFoundError(f"there is no revision {revision_id}")
            return self.database.revisions[revision_id]

        return await self._statement("revision", effect)

    async def owned(self, worker: int) -> dict[str, int]:
        return await self._statement("owned", lambda: {r.id: r.fence or 0 for r in self._owned(worker)})

    # -- writing -------------------------------------------------------------------------------------------------------

    async def hand_back(self, worker: int, runs: dict[str, int], *, begun: bool = True) -> list[str]:
        def effect() -> list[str]:
            rows = [r for r in self._owned(worker) if runs.get(r.id) == r.fence]
            for row in rows:
                ends = row.cancelled_at is not None and row.outcome is None and not self.database.handlers(row)
                self.database.change(row, "cancelled" if ends else "queued")
                self.not_begun |= set() if begun else {row.id}
            return [row.id for row in rows]

        return await self._statement("hand_back", effect)

    async def flush(self, worker: int, entries: Sequence[FlushEntry]) -> dict[str, Kept]:
        def effect() -> dict[str, Kept]:
            names = {name for e in entries for name in (e.run_id, *(f"{e.run_id}/{a.step}" for a in e.attempts))}
            if names & self.poison:
                raise DataRefusedError("a row was refused")
            self.flushed.append(list(entries))
            owned = {(r.id, r.fence): r for r in self._owned(worker)}
            kept = {}
            for entry in entries:
                row = owned.get((entry.run_id, entry.fence))
                if row is not None:
                    kept[row.id] = self._write(row, entry)
            return kept

        return await self._statement("flush", effect)

    def _write(self, row: Row, entry: FlushEntry) -> Kept:
        wakes, cancelled = row.wakes, row.cancelled_at is not None and row.outcome is None
        for attempt in entry.attempts:
            place = attempt.step, attempt.item, attempt.attempt
            _, known = self.database.records[row.id].setdefault(place, (entry.fence, attempt))
            assert known is attempt, f"attempt {place} was made twice and recorded already"
        if entry.end is not None and not (cancelled and entry.end.status is RunStatus.SUCCEEDED):
            self.database.change(row, entry.end.status)
            assert entry.end.kept == (row.outcome is not None and entry.end.status == row.outcome.status)
            row.end = row.outcome if entry.end.kept else entry.end
        if entry.turn is not None:
            self._turn(row, entry.turn, cancelled=cancelled)
        if entry.park is not None and not cancelled:
            self._park(row, entry.park)
        parked = row.status if row.status in {"waiting", "queued"} else None
        return Kept(cancelled, wakes, row.final, parked)

    def _turn(self, row: Row, turn: Turn, *, cancelled: bool) -> None:
        if turn.outcome is not None:
            if cancelled and turn.outcome.status is RunStatus.SUCCEEDED:
                return
            assert row.outcome in (None, turn.outcome), "the outcome is written once"
            row.outcome = turn.outcome
        assert turn.part >= row.part
        assert row.outcome is not None
        row.part, row.at, row.until, row.recoveries = turn.part, turn.at, turn.until, 0

    def _park(self, row: Row, park: Park) -> None:
        assert (park.until is None) is (row.outcome is None)
        row.until = park.until
        waiting = park.due_at is not None and park.wakes == row.wakes
        self.database.change(row, "waiting" if waiting else "queued")
        row.due_at = park.due_at if waiting else None


def _handling(row: Row) -> str | None:
    if row.outcome is None:
        return None
    error = orjson.loads(row.outcome.error or b"null")
    return orjson.dumps(tuple(Handling(row.outcome.status, error, row.part, row.at, row.until or 0))).decode()


def _recorded(run_id: str, attempt: AttemptRecord) -> RecordedAttempt:
    def text(document: bytes | None) -> str | None:
        return None if document is None else document.decode()

    return RecordedAttempt(
        run_id, attempt.step, attempt.attempt, StepStatus(attempt.status).value, text(attempt.output),
        text(attempt.error), text(attempt.http), attempt.finished_at, attempt.retry_at, attempt.item, attempt.items,
    )  # fmt: skip


class MemoryQueue:
    """A ready queue that forgets nothing, unless ``away``."""

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        self.away = False
        self.taken: list[int] = []
        self.added: list[ReadyRun] = []
        self._some = asyncio.Event()

    async def add(self, items: Sequence[ReadyRun]) -> None:
        self._check()
        self.added += items
        for item in items:
            self.ids[item.id] = None
        self._some.set()

    async def take(self, n: int) -> list[str]:
        self._check()
        self.taken.append(n)
        taken = list(self.ids)[:n]
        for run_id in taken:
            del self.ids[run_id]
        return taken

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 (the signature of the port)
        self._check()
        if not self.ids:
            self._some.clear()
        try:
            async with asyncio.timeout(timeout):
                return await self._some.wait()
        except TimeoutError:
            return False

    def _check(self) -> None:
        if self.away:
            raise UnavailableError("the queue is away")
