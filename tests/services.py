"""PostgreSQL and Valkey for tests: real servers, from wheels, or those that the environment names.

``STEPWELL_TEST_EXTERNAL=1`` takes DATABASE_URL (its user may create databases) and REDIS_URL (flushed for every test!).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import TYPE_CHECKING, LiteralString

import psycopg
import redis
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from stepwell.adapters.postgres.migrate import migrate
from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTERNAL = os.environ.get("STEPWELL_TEST_EXTERNAL") == "1"


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The DSN of a server for the session."""
    if EXTERNAL:
        yield os.environ["DATABASE_URL"]
    else:
        with EmbeddedPostgres() as server:
            yield server.dsn()


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """The URL of a server for the session."""
    if EXTERNAL:
        yield os.environ["REDIS_URL"]
    else:
        with EmbeddedValkey() as server:
            yield server.url


class Databases:
    """Databases with all migrations applied, cloned in some milliseconds from a template that is made once."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._template: str | None = None
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def clone(self) -> Iterator[str]:
        """A database of its own: its DSN. Dropped at the end, whoever is still connected."""
        name = self._name()
        # 50 ms for 600 relations, where file_copy takes 85: it waits for two checkpoints.
        self._run("CREATE DATABASE {} TEMPLATE {} STRATEGY wal_log", name, self._made_template())
        try:
            yield self._dsn(name)
        finally:
            self._drop(name)

    @contextlib.contextmanager
    def empty(self) -> Iterator[str]:
        """A database without any table: its DSN."""
        name = self._name()
        self._run("CREATE DATABASE {}", name)
        try:
            yield self._dsn(name)
        finally:
            self._drop(name)

    def close(self) -> None:
        """Drop the template."""
        if self._template is not None:
            self._drop(self._template)

    def _made_template(self) -> str:
        if self._template is None:
            self._template = self._name()
            self._run("CREATE DATABASE {}", self._template)
            asyncio.run(migrate(self._dsn(self._template)))
        return self._template

    def _name(self) -> str:
        return f"stepwell_test_{os.getpid()}_{next(self._numbers)}"

    def _dsn(self, name: str) -> str:
        return make_conninfo(self._server, dbname=name)

    def _drop(self, name: str) -> None:
        self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _run(self, statement: LiteralString, *names: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def redis_address(url: str) -> str | tuple[str, int]:
    """Where a Redis listens, as `fault_proxy.FaultProxy` takes it: a unix socket's path or (host, port)."""
    options = redis.connection.parse_url(url)
    return options.get("path") or (options.get("host", "localhost"), options.get("port", 6379))


def postgres_address(dsn: str) -> str | tuple[str, int]:
    """Where a PostgreSQL listens, likewise."""
    options = conninfo_to_dict(dsn)
    host, port = str(options.get("host") or "localhost"), int(options.get("port") or 5432)
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def flush(url: str) -> None:
    """Empty a Redis: keys and functions."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
        client.function_flush()
