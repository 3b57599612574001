"""The fixtures themselves: isolation, and tests that fail where they should."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest
import redis

if TYPE_CHECKING:
    from collections.abc import Callable

    from lending import Databases


def test_every_database_is_migrated_and_alone(databases: Databases) -> None:
    with databases.clone() as one, databases.clone() as two:
        for dsn in one, two:
            with psycopg.connect(dsn) as connection:
                assert connection.execute("SELECT count(*) FROM workflow_runs").fetchone() == (0,)
                connection.execute("CREATE TABLE mine ()")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(one)


def test_a_database_is_dropped_with_a_session_open(databases: Databases) -> None:
    with databases.empty() as dsn:
        connection = psycopg.connect(dsn)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()


def number_of(connection: psycopg.Connection) -> int:
    """What PostgreSQL knows a database by, whatever its name."""
    row = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def test_a_database_that_was_lent_is_as_new_under_another_name(databases: Databases) -> None:
    numbers, opened = [], []
    for _ in range(2):
        with databases.lent() as dsn:
            connection = psycopg.connect(dsn, autocommit=True)
            opened.append(connection)
            numbers.append(number_of(connection))
            assert connection.execute("SELECT nextval('run_fences')").fetchone() == (1,)
            added = connection.execute("INSERT INTO workflows (namespace, name) VALUES ('shop', 'order') RETURNING id")
            assert added.fetchone() == (1,)
            assert connection.execute("SELECT add_partitions('2020-01-01'::date, 1)").fetchone() == (3,)
            connection.execute(
                "INSERT INTO timers VALUES ('00000000-0000-7000-8000-000000000000', now()); DELETE FROM timers"
            )
            assert connection.execute("SELECT pg_relation_size('timers') > 0").fetchone() == (True,)
    with databases.lent() as another, psycopg.connect(another) as connection:
        assert number_of(connection) == numbers[0]
        assert connection.execute("SELECT pg_relation_size('timers')").fetchone() == (0,)
        assert connection.execute("SELECT to_regclass('runs_20200101')").fetchone() == (None,)
    assert numbers[0] == numbers[1]
    for connection in opened:
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(dsn)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE mine ()",
        "ALTER TABLE workflow_revisions DISABLE TRIGGER USER",
        "GRANT SELECT ON runs TO PUBLIC",
        "DELETE FROM schema_migrations",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = on', current_database()); END $$",
    ],
)
def test_a_database_that_was_changed_is_not_lent_again(databases: Databases, change: LiteralString) -> None:
    with databases.lent() as dsn, psycopg.connect(dsn) as connection:
        before = number_of(connection)
        connection.execute(change)
        connection.commit()
    with databases.lent() as dsn, psycopg.connect(dsn) as connection:
        assert number_of(connection) != before


@pytest.mark.parametrize("_again", [1, 2])
def test_every_test_finds_an_empty_redis(redis_url: str, _again: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_a_task_left_behind_fails_the_test(run: Callable[..., Any]) -> None:
    async def leave() -> None:
        asyncio.current_task().left = asyncio.create_task(asyncio.Event().wait(), name="forgotten")

    with pytest.raises(AssertionError, match=r"left tasks behind.*forgotten"):
        run(leave())


def test_a_hanging_test_fails_at_its_deadline(run: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=r"longer than 0\.05 s"):
        run(asyncio.Event().wait(), 0.05)
