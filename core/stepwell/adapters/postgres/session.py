"""One connection that mends itself, for one kind of work at a time.

Statements run in autocommit and unprepared: each is planned for its own values (partitions are pruned while planning)
and PgBouncer in transaction mode needs nothing special.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, LiteralString, Self, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.waiting import wait_async

from stepwell.adapters.postgres.errors import retyped
from stepwell.domain.errors import DataRefusedError
from stepwell.engine.clock import Clock

CONNECT_TIMEOUT = 5  # seconds
STATEMENT_TIMEOUT = 30.0  # seconds; where the other end is silent nothing else ends the wait
LOOKS = 5  # at the database's clock, when a connection is made
KEPT_ROWS = 10  # of an answer; a cursor with more is not used again, since it holds its last answer
NETWORK = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""How the kernel notices within half a minute that the other machine is gone; what the DSN says goes first."""

Row = tuple[Any, ...]
T = TypeVar("T")

_TOLERANT = "  ON CONFLICT DO NOTHING\n"


class _Connection(psycopg.AsyncConnection[Row]):
    """One that waits ``patience`` seconds for an answer, and is closed where the wait ends without one.

    psycopg's own way is to ask the server to cancel, over another connection, and to wait for it: ten seconds and more
    where the network is dead.
    """

    patience = STATEMENT_TIMEOUT
    _cursor: psycopg.AsyncCursor[Row] | None = None

    async def ask(self, query: LiteralString, params: Mapping[str, object] | None = None) -> list[Row]:
        """Execute and fetch."""
        cursor = self._cursor = self._cursor or self.cursor()
        await cursor.execute(query, params, prepare=False)
        rows = await cursor.fetchall() if cursor.description else []
        if len(rows) > KEPT_ROWS:
            self._cursor = None
        return rows

    def cut(self) -> None:
        """Let whoever waits for an answer meet the end of the connection."""
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.fileno())) as handle:
            handle.shutdown(socket.SHUT_RDWR)

    async def wait(self, gen: PQGen[T], interval: float = 0.0, timeout: float | None = None) -> T:  # noqa: ARG002, ASYNC109
        """See psycopg."""
        try:
            return await wait_async(gen, self.pgconn.socket, interval=self.patience, timeout=self.patience)
        except BaseException as exc:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()
            if not isinstance(exc, psycopg.Error):
                raise
            message = f"it did not answer within {self.patience:g} s"
            raise psycopg.OperationalError(message) from exc


class Session:
    """Runs statements one after another; connects at first use and again after the connection was lost.

    ``on_connect`` is called for every new connection before anything is asked over it: another server may be behind it, which
    never saw what the last one said. ``statements`` counts for the benchmark. Raises UnavailableError, DataRefusedError,
    ConflictError.
    """

    def __init__(self, dsn: str, name: str, clock: Clock | None = None, *, patience: float = STATEMENT_TIMEOUT) -> None:
        self._dsn = dsn
        self._name = name
        self._clock = clock
        self._patience = patience
        self._connection: _Connection | None = None
        self._lock = asyncio.Lock()
        self.on_connect: Callable[[], None] | None = None
        self.statements = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def execute(self, query: LiteralString, params: Mapping[str, object] | None = None) -> list[Row]:
        """Run one statement in a transaction of its own and return its rows."""
        async with self._lock:
            try:
                connection = await self._connected()
                self.statements += 1
                return await connection.ask(query, params)
            except psycopg.Error as exc:
                raise retyped(self._name, exc) from exc

    async def execute_once(self, query: LiteralString, params: Mapping[str, object]) -> list[Row]:
        """The same for a statement that may be repeated, because its answer was lost, and then finds its own rows.

        `ON CONFLICT DO NOTHING` costs a WAL record of 48 bytes for every row inserted. So it is left out at first, and
        only a statement that does meet its own rows is sent again with it.
        """
        try:
            return await self.execute(query.replace(_TOLERANT, ""), params)
        except DataRefusedError as exc:
            if not isinstance(exc.__cause__, psycopg.errors.UniqueViolation):
                raise
        return await self.execute(query, params)

    async def close(self) -> None:
        """Close the connection; a statement in flight fails, and the next one opens another.

        Not while the statement still waits: libpq's memory would be freed under it.
        """
        if self._lock.locked() and self._connection is not None:
            self._connection.cut()
        async with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(psycopg.Error):
                    await connection.close()

    async def _connected(self) -> _Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await self._new()
        return self._connection

    async def _new(self) -> _Connection:
        connection = await _Connection.connect(
            make_conninfo("", **(NETWORK | conninfo_to_dict(self._dsn))),
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=CONNECT_TIMEOUT,
            application_name=f"stepwell {self._name}",
        )
        connection.patience = self._patience
        if self.on_connect is not None:
            self.on_connect()
        try:
            if self._clock is not None:
                await self._learn_the_time(connection, self._clock)
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    async def _learn_the_time(self, connection: _Connection, clock: Clock) -> None:
        """The quickest of some answers: the first one waits for a session that is still warming up, by some milliseconds."""
        looks = [await _time_of(connection) for _ in range(LOOKS)]
        clock.learn(*min(looks, key=lambda look: look[2] - look[1]))


async def _time_of(connection: _Connection) -> tuple[int, int, int]:
    """The database's time, and when it was asked for and answered, by ``time.monotonic_ns``."""
    asked = time.monotonic_ns()
    rows = await connection.ask("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    return rows[0][0], asked, time.monotonic_ns()
