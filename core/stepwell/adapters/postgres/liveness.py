"""A heartbeat's own connection: blocking, for a thread of its own, with a hard deadline a call.

A psycopg call on a dead network does not end by being cancelled, so the deadline shuts the socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.errors import retyping

_SQL = queries.load("liveness")
DEADLINE = 3.0  # seconds


class Liveness:
    """Registers a worker, beats for it, and reads which of its runs are to be cancelled. Raises UnavailableError."""

    def __init__(self, dsn: str, deadline: float = DEADLINE) -> None:
        self._dsn = dsn
        self._deadline = deadline
        self._connection: psycopg.Connection | None = None

    def register(self, host: str, process: int, version: str) -> int:
        """A new worker's id."""
        rows = self._execute(_SQL["register"], {"host": host, "process": process, "version": version})
        return int(rows[0][0])

    def beat(self, worker: int) -> bool:
        """Raise the counter. False: the worker was declared dead and never comes back."""
        return bool(self._execute(_SQL["beat"], {"worker": worker}))

    def cancelling(self, worker: int) -> list[str]:
        """Ids of runs of this worker whose cancel was acknowledged."""
        return [row[0] for row in self._execute(_SQL["cancelling"], {"worker": worker})]

    def unregister(self, worker: int) -> None:
        """The worker stopped and owns nothing."""
        self._execute(_SQL["unregister"], {"worker": worker})

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _execute(self, query: LiteralString, params: dict[str, object]) -> list[tuple[Any, ...]]:
        with retyping("heartbeat"):
            try:
                connection = self._connected()
                with _deadline(connection, self._deadline):
                    cursor = connection.execute(query, params, prepare=False)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.Error:
                self.close()
                raise

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            timeout = max(2, int(self._deadline))  # libpq's least
            self._connection = psycopg.connect(
                self._dsn, autocommit=True, prepare_threshold=None, connect_timeout=timeout,
                application_name="stepwell heartbeat",
            )  # fmt: skip
        return self._connection


@contextlib.contextmanager
def _deadline(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    def cut() -> None:
        with contextlib.suppress(OSError, psycopg.Error):
            duplicate = socket.socket(fileno=os.dup(connection.fileno()))
            with duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
