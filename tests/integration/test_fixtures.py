"""The fixtures themselves: isolation, and tests that fail where they should."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

if TYPE_CHECKING:
    from collections.abc import Callable

    from services import Databases


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
