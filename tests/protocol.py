"""A stage for interleavings: the real statements on several connections, each in a transaction that stays open."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar

import psycopg
from psycopg.rows import dict_row
from waiting import eventually

from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.liveness import Liveness
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.postgres.upkeep_store import PostgresUpkeepStore
from stepwell.domain.ids import uuid7
from stepwell.domain.states import RunStatus, StepStatus
from stepwell.engine.apply import NewRevision
from stepwell.engine.clock import Clock
from stepwell.engine.ports import AttemptRecord, ClaimedRun, End, FlushEntry, NewRun, Park

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence

T = TypeVar("T")

SECOND = 1_000_000  #: in microseconds, as wall times are kept
HOUR = 3_600 * SECOND


class Side:
    """One party: its stores over one connection."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.runs = PostgresRunStore(session, session)
        self.upkeep = PostgresUpkeepStore(session)
        self.intake = PostgresIntakeStore(session)


class _Held(Session):
    """Every statement joins the transaction, until it is committed."""

    async def _new(self) -> Any:
        connection = await super()._new()
        await connection.set_autocommit(False)
        return connection


class Held(Side):
    """A party whose transaction stays open until ``commit`` or ``rollback``."""

    def __init__(self, session: _Held, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(session)
        self._connection = connection
        self.pid = connection.info.backend_pid

    async def commit(self) -> None:
        await self._connection.commit()

    async def rollback(self) -> None:
        await self._connection.rollback()


class Stage:
    """A database with one workflow and its revision."""

    def __init__(self, dsn: str, stack: contextlib.AsyncExitStack, watcher: psycopg.AsyncConnection[Any]) -> None:
        self.dsn = dsn
        self._stack = stack
        self._watcher = watcher
        self.clock = Clock()
        self.workflow_id = 0
        self.revision_id = 0

    # -- parties ------------------------------------------------------------------------------------------------------

    async def side(self) -> Side:
        """A party that commits every statement."""
        return Side(await self._stack.enter_async_context(Session(self.dsn, "side", self.clock)))

    async def held(self) -> Held:
        """A party in an open transaction."""
        session = await self._stack.enter_async_context(_Held(self.dsn, "held"))
        return Held(session, await session._connected())

    async def worker(self) -> int:
        """The id of a new, living worker."""
        with self.liveness() as liveness:
            return liveness.register("test", os.getpid(), "0")

    @contextlib.contextmanager
    def liveness(self) -> Iterator[Liveness]:
        """A heartbeat's connection."""
        liveness = Liveness(self.dsn)
        try:
            yield liveness
        finally:
            liveness.close()

    async def waits(self, party: Held, statement: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start the party's statement and return once PostgreSQL says that it waits for a lock."""
        task = asyncio.ensure_future(statement)

        async def stopped() -> bool:
            if task.done():
                raise AssertionError(f"nothing held the statement up; it gave {task.result()!r}")
            query: LiteralString = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
            return bool((await self.query(query, party.pid))[0]["?column?"])

        await eventually(stopped)
        return task

    # -- runs ---------------------------------------------------------------------------------------------------------

    def new(self, key: str | None = None, **fields: Any) -> NewRun:
        """A run to be accepted."""
        now = self.clock.micros()
        values: dict[str, Any] = {
            "id": uuid7(now // 1000, os.urandom(10)),
            "workflow_id": self.workflow_id,
            "revision_id": self.revision_id,
            "namespace": "shop",
            "trigger": "api",
            "input": b'{"order": 7}',
            "created_at": now,
            "key": key,
        }
        return NewRun(**values | fields)

    async def queued(self, count: int = 1, **fields: Any) -> list[str]:
        """Ids of accepted runs, in order."""
        side = await self.side()
        return sorted(await side.intake.accept([self.new(**fields) for _ in range(count)]))

    async def running(self, worker: int, count: int = 1) -> list[ClaimedRun]:
        """Runs that the worker claimed, in order."""
        side = await self.side()
        return sorted(await side.runs.claim(worker, await self.queued(count), token=1))

    async def waiting(self, worker: int, due_in: float = 3600.0) -> str:
        """A run that is parked for some seconds (less than none: it is due)."""
        (run,) = await self.running(worker)
        side = await self.side()
        kept = await side.runs.flush(worker, [parking(run, self.clock.micros() + int(due_in * SECOND))])
        assert kept[run.id].parked == "waiting"
        return run.id

    async def suspect(self, side: Side, run_id: str, deaths: int = 0) -> None:
        """Let a worker die of the run without progress, then ``deaths`` times more while it is its suspect."""
        for attempt in range(deaths + 1):
            worker = await self.worker()
            claim = side.runs.claim(worker, [run_id], 1) if attempt == 0 else side.runs.claim_suspects(worker, 1, 1)
            assert [run.id for run in await claim] == [run_id]
            await self.kill(worker)
            await side.upkeep.reap(await side.upkeep.orphans(), deaths=5)

    async def kill(self, worker: int) -> None:
        """Have the worker declared dead."""
        side = await self.side()
        assert await side.upkeep.declare_dead(worker, (await side.upkeep.counters())[worker])

    # -- what the database holds --------------------------------------------------------------------------------------

    async def query(self, query: LiteralString, *params: object) -> list[dict[str, Any]]:
        """Rows of any question."""
        async with self._watcher.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query, params or None, prepare=False)
            return await cursor.fetchall() if cursor.description else []

    async def run(self, run_id: str) -> dict[str, Any]:
        """A run's row."""
        (row,) = await self.query("SELECT * FROM runs WHERE id = %s", run_id)
        return row

    async def status(self, run_id: str) -> str:
        """A run's status."""
        return str((await self.run(run_id))["status"])

    async def steps(self, run_id: str) -> list[str]:
        """The names of a run's recorded steps."""
        rows = await self.query("SELECT step FROM run_steps WHERE run_id = %s ORDER BY step", run_id)
        return [row["step"] for row in rows]

    async def timers(self) -> list[str]:
        """The runs that have a timer."""
        return [str(row["run_id"]) for row in await self.query("SELECT run_id FROM timers ORDER BY run_id")]


@contextlib.asynccontextmanager
async def staged(dsn: str) -> AsyncIterator[Stage]:
    """A stage on a migrated database."""
    async with contextlib.AsyncExitStack() as stack:
        watcher = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        await stack.enter_async_context(watcher)
        stage = Stage(dsn, stack, watcher)
        side = await stage.side()
        active = await side.intake.apply(revision())
        stage.workflow_id, stage.revision_id = active.workflow_id, active.revision_id
        yield stage


def revision(digest: bytes = b"1", **fields: Any) -> NewRevision:
    """A revision of the stage's workflow."""
    values: dict[str, Any] = {
        "namespace": "shop",
        "name": "order",
        "spec": b'{"steps": [{"name": "one", "transform": {"value": "{{ input }}"}}]}',
        "hash": digest,
        "features": (),
        "suspended": False,
        "retain_succeeded": 86_400.0,
        "retain_failed": 604_800.0,
    }
    return NewRevision(**values | fields)


def step(name: str = "charge", attempt: int = 1) -> AttemptRecord:
    """A step that succeeded."""
    return AttemptRecord(name, attempt, StepStatus.SUCCEEDED, SECOND, 2 * SECOND, None, b'"$run"', None, b'{"ok":true}')


def progress(run: ClaimedRun, *names: str) -> FlushEntry:
    """The run goes on, with these steps done."""
    return FlushEntry(run.id, run.fence, [step(name) for name in names])


def ending(run: ClaimedRun, status: RunStatus = RunStatus.SUCCEEDED, steps: Sequence[str] = ("charge",)) -> FlushEntry:
    """The run ends."""
    end = End(status, 3 * SECOND + run.created_at, retain=3600.0)
    return FlushEntry(run.id, run.fence, [step(name) for name in steps], end=end)


def parking(run: ClaimedRun, due_at: int | None, wakes: int | None = None) -> FlushEntry:
    """The run leaves its worker: until ``due_at``, or (None) back into the queue."""
    return FlushEntry(run.id, run.fence, park=Park(run.wakes if wakes is None else wakes, due_at))
