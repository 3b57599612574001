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
from typing import Any, LiteralString, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from stepwell.adapters.postgres.errors import retyped
from stepwell.domain.errors import DataRefusedError, UnavailableError
from stepwell.engine.clock import Clock

CONNECT_TIMEOUT = 5  # seconds
STATEMENT_TIMEOUT = 30.0  # seconds; where the other end is silent nothing else ends the wait
LOOKS = 5  # at the database's clock, when a connection is made
CUT_TIMEOUT = 1.0  # seconds that a call gets to end after its socket was shut; it needs none
NETWORK = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""How the kernel notices within half a minute that the other machine is gone; what the DSN says goes first."""

Row = tuple[Any, ...]

_TOLERANT = "  ON CONFLICT DO NOTHING\n"


class Session:
    """Runs statements one after another; connects at first use and again after the connection was lost.

    ``on_connect`` is called for every new connection before anything is asked over it: another server may be behind it, which
    never saw what the last one said. ``statements`` and ``bytes_sent`` count for the benchmark. Raises UnavailableError, DataRefusedError, ConflictError.
    """

    def __init__(self, dsn: str, name: str, clock: Clock | None = None, *, patience: float = STATEMENT_TIMEOUT) -> None:
        self._dsn = dsn
        self._name = name
        self._clock = clock
        self._patience = patience
        self._connection: psycopg.AsyncConnection | None = None
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
            with retyped(self._name):
                try:
                    async with asyncio.timeout(self._patience):
                        connection = await self._connected()
                        self.statements += 1
                        return await _ask(connection, query, params)
                except TimeoutError as exc:
                    self._drop()
                    message = f"{self._name}: PostgreSQL did not answer within {self._patience:g} s"
                    raise UnavailableError(message) from exc
                except BaseException:
                    if self._connection is not None and self._connection.closed:
                        self._drop()
                    raise

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
        """Close the connection; the next statement opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                await connection.close()

    async def _connected(self) -> psycopg.AsyncConnection:
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(
                make_conninfo("", **(NETWORK | conninfo_to_dict(self._dsn))),
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=CONNECT_TIMEOUT,
                application_name=f"stepwell {self._name}",
            )
            if self.on_connect is not None:
                self.on_connect()
            if self._clock is not None:
                await self._learn_the_time(self._connection, self._clock)
        return self._connection

    async def _learn_the_time(self, connection: psycopg.AsyncConnection, clock: Clock) -> None:
        """The quickest of some answers: the first one waits for a session that is still warming up, by some milliseconds."""
        looks = [await _time_of(connection) for _ in range(LOOKS)]
        clock.learn(*min(looks, key=lambda look: look[2] - look[1]))

    def _drop(self) -> None:
        """Let go of a connection in an unknown state, without waiting for its other end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()


async def _time_of(connection: psycopg.AsyncConnection) -> tuple[int, int, int]:
    """The database's time, and when it was asked for and answered, by ``time.monotonic_ns``."""
    asked = time.monotonic_ns()
    rows = await _ask(connection, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    return rows[0][0], asked, time.monotonic_ns()


async def _ask(
    connection: psycopg.AsyncConnection, query: LiteralString, params: Mapping[str, object] | None = None
) -> list[Row]:
    """Execute and fetch; a cancellation ends it at once.

    psycopg's own way is to ask the server to cancel, over another connection, and to wait for it: ten seconds and more
    where the network is dead. So it has a task of its own, which ends by the loss of its socket.
    """
    asking = asyncio.ensure_future(_fetch(connection, query, params))
    try:
        await asyncio.wait([asking])
    except asyncio.CancelledError:
        _cut(connection)
        await asyncio.wait([asking], timeout=CUT_TIMEOUT)
        if asking.done() and not asking.cancelled():
            asking.exception()  # the loss of the socket, as intended
        raise
    return asking.result()


async def _fetch(
    connection: psycopg.AsyncConnection, query: LiteralString, params: Mapping[str, object] | None
) -> list[Row]:
    cursor = await connection.execute(query, params, prepare=False)
    return await cursor.fetchall() if cursor.description else []


def _cut(connection: psycopg.AsyncConnection) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as handle:
        handle.shutdown(socket.SHUT_RDWR)
