"""What befalls a system that is watched: the faults that its alerts are for, as operators meet them.

Only what takes minutes is shortened: a run that has waited for minutes is one whose creation was moved back.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, LiteralString

import operating
import orjson
import psycopg
from fault_proxy import FaultProxy, Mode
from psycopg.conninfo import conninfo_to_dict
from watched_workflows import NAMESPACE

from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.session import Session
from stepwell.engine.apply import NewRevision
from stepwell_cli.embedded.postgres import SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from monitored import System

    from stepwell_cli.embedded import EmbeddedPostgres


def rows(system: System, statement: LiteralString, **values: Any) -> list[tuple[Any, ...]]:
    """What a statement gives, committed at once."""
    with psycopg.connect(system.postgres.dsn(), autocommit=True) as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def running(system: System) -> int:
    """How many runs are executed."""
    return int(rows(system, "SELECT count(*) FROM runs WHERE finished_at IS NULL AND status = 'running'")[0][0])


def miss_ticks(system: System, *triggers: str) -> None:
    """Nobody was there: `yearly` makes up for its tick (once: none starts twice), `skipping` skips an hour of them."""
    statement = """UPDATE schedules SET (tick_at, due_at) = (CASE trigger
        WHEN 'yearly' THEN date_trunc('year', now(), 'UTC') - '1 year'::interval + '4 hours'::interval
        ELSE date_trunc('minute', now()) - '1 hour'::interval END, now()) WHERE trigger = ANY(%(triggers)s)"""
    rows(system, statement, triggers=list(triggers))


def age_queue(system: System, workflow: str, minutes: int) -> int:
    """The workflow's runs that were not started yet have waited for so long. How many there are."""
    statement = """UPDATE runs SET created_at = created_at - make_interval(mins => %(minutes)s)
      WHERE finished_at IS NULL AND status = 'queued' AND started_at IS NULL
        AND workflow_id IN (SELECT id FROM workflows WHERE name = %(workflow)s) RETURNING id"""
    return len(rows(system, statement, workflow=workflow, minutes=minutes))


def lose_timer(system: System, run: str) -> bool:
    """If the run waits, nothing will wake it."""
    return bool(rows(system, "DELETE FROM timers WHERE run_id = %(run)s RETURNING run_id", run=run))


def give_newer_revision(system: System, run: str) -> None:
    """The queued run is one of a workflow that needs a newer worker."""

    async def applied() -> None:
        spec = orjson.dumps({"steps": [{"name": "go", "teleport": {"to": "there"}}]})
        async with Session(system.postgres.dsn(), "newer operator") as session:
            newer = NewRevision(NAMESPACE, "newer", spec, spec[-32:], ["teleport"], False, 3600, 3600)
            await PostgresIntakeStore(session).apply(newer)

    asyncio.run(applied())
    statement = """UPDATE runs SET (workflow_id, revision_id) = (
        SELECT w.id, v.id FROM workflows w JOIN workflow_revisions v ON v.workflow_id = w.id WHERE w.name = 'newer')
      WHERE id = %(run)s AND status = 'queued' RETURNING id"""
    assert rows(system, statement, run=run)


@contextlib.contextmanager
def forgotten_transaction(system: System) -> Iterator[None]:
    """A session builds an index by hand and leaves its transaction open: nobody writes steps, nobody renews the lead.

    It is to be found and terminated meanwhile.
    """
    with psycopg.connect(system.postgres.dsn()) as connection:
        connection.execute("LOCK TABLE run_steps IN SHARE MODE")
        connection.execute("SELECT FROM leases FOR UPDATE")
        yield
        with contextlib.suppress(psycopg.OperationalError):
            connection.execute("SELECT 1")
            raise AssertionError("the forgotten transaction is still there")


class Cable:
    """What one worker's connections to PostgreSQL go through."""

    def __init__(self, proxy: FaultProxy, thread: operating.Thread) -> None:
        self._proxy = proxy
        self._thread = thread
        self.dsn = f"postgresql://postgres@{proxy.host}:{proxy.port}/postgres"

    def cut(self) -> None:
        self._set(Mode.REFUSE)

    def mend(self) -> None:
        self._set(Mode.PASS)

    def _set(self, mode: Mode) -> None:
        async def change() -> None:
            self._proxy.mode = mode

        self._thread.call(change())


@contextlib.contextmanager
def cable(postgres: EmbeddedPostgres) -> Iterator[Cable]:
    """One that is whole."""
    proxy = FaultProxy(_socket(postgres))

    async def main(thread: operating.Thread) -> None:
        async with proxy:
            thread.ready.set()
            await thread.stopping.wait()

    thread = operating.Thread(main)
    thread.is_ready()
    try:
        yield Cable(proxy, thread)
    finally:
        thread.stop()


def _socket(postgres: EmbeddedPostgres) -> str:
    host = conninfo_to_dict(postgres.dsn())["host"]
    return f"{host}/{SOCKET}"
