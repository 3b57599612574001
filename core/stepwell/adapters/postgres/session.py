"""One connection that mends itself, for one kind of work at a time.

Statements run in autocommit and unprepared: each is planned for its own values (partitions are pruned while planning)
and PgBouncer in transaction mode needs nothing special.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg

from stepwell.adapters.postgres.errors import retyped
from stepwell.domain.errors import UnavailableError
from stepwell.engine.clock import Clock

CONNECT_TIMEOUT = 5  # seconds
STATEMENT_TIMEOUT = 30.0  # seconds; on a dead network nothing else ends the wait

Row = tuple[Any, ...]


class Session:
    """Runs statements one after another; connects at first use and again after the connection was lost.

    ``statements`` and ``bytes_sent`` count for the benchmark. Raises UnavailableError, DataRefusedError, ConflictError.
    """

    def __init__(self, dsn: str, name: str, clock: Clock | None = None) -> None:
        self._dsn = dsn
        self._name = name
        self._clock = clock
        self._connection: psycopg.AsyncConnection | None = None
        self._lock = asyncio.Lock()
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
                    async with asyncio.timeout(STATEMENT_TIMEOUT):
                        connection = await self._connected()
                        self.statements += 1
                        cursor = await connection.execute(query, params, prepare=False)
                        return await cursor.fetchall() if cursor.description else []
                except TimeoutError as exc:
                    self._drop()
                    message = f"{self._name}: PostgreSQL did not answer within {STATEMENT_TIMEOUT:g} s"
                    raise UnavailableError(message) from exc
                except BaseException:
                    if self._connection is not None and self._connection.closed:
                        self._drop()
                    raise

    async def close(self) -> None:
        """Close the connection; the next statement opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                await connection.close()

    async def _connected(self) -> psycopg.AsyncConnection:
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(
                self._dsn,
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=CONNECT_TIMEOUT,
                application_name=f"stepwell {self._name}",
            )
            if self._clock is not None:
                await self._learn_the_time(self._connection, self._clock)
        return self._connection

    async def _learn_the_time(self, connection: psycopg.AsyncConnection, clock: Clock) -> None:
        asked = time.monotonic_ns()
        cursor = await connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        row = await cursor.fetchone()
        if row is not None:
            clock.learn(row[0], asked, time.monotonic_ns())

    def _drop(self) -> None:
        """Let go of a connection in an unknown state, without waiting for its other end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()
