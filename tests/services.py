"""PostgreSQL and Valkey for tests: real servers, from wheels, or those that the environment names.

``STEPWELL_TEST_EXTERNAL=1`` takes DATABASE_URL (its user may create databases) and REDIS_URL (flushed for every test!).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import redis
from psycopg.conninfo import conninfo_to_dict

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
        # Servers are killed here, but nobody cuts the power: what the kernel has is as good as on disk.
        with EmbeddedPostgres(settings={"fsync": "off"}) as server:
            yield server.dsn()


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """The URL of a server for the session."""
    if EXTERNAL:
        yield os.environ["REDIS_URL"]
    else:
        with EmbeddedValkey() as server:
            yield server.url


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
