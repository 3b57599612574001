"""A whole system for benchmarks: servers, a receiver, worker processes, and intake in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import psycopg

from stepwell.actions.registry import default_actions
from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.engine.apply import NewRevision
from stepwell.engine.clock import Clock
from stepwell.engine.intake import Intake, Start
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.revisions import Revisions

HERE = Path(__file__).parent


@contextlib.contextmanager
def receiver() -> Iterator[tuple[int, int]]:
    """A receiver process: its port and its process id."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "receiver.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


@contextlib.contextmanager
def workers(number: int, dsn: str, url: str, **settings: str) -> Iterator[list[int]]:
    """Worker processes, drained at the end."""
    environment = os.environ | {
        "DATABASE_URL": dsn,
        "REDIS_URL": url,
        "STEPWELL_ALLOW_LOOPBACK": "true",
        "STEPWELL_METRICS_PORT": "0",
        **settings,
    }
    command = [str(Path(sys.executable).with_name("stepwell")), "worker"]
    started = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(number)]
    try:
        yield [p.pid for p in started]
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(60)


class Client:
    """Applies workflows and starts runs, as a gateway would."""

    def __init__(self, intake: Intake, store: PostgresIntakeStore) -> None:
        self._intake = intake
        self._store = store

    async def apply(self, name: str, spec: dict[str, Any]) -> None:
        """Make this the active revision."""
        document = orjson.dumps(spec)
        await self._store.apply(NewRevision("bench", name, document, document[-32:], [], False, 3600, 3600))

    async def start(self, name: str, value: dict[str, Any]) -> str:
        """Start a run; returns once it is durable."""
        return (await self._intake.start(Start("bench", name, value))).id

    async def preload(self, name: str, value: dict[str, Any], runs: int) -> None:
        """Start many, a thousand at a time."""
        for first in range(0, runs, 1000):
            await asyncio.gather(*[self.start(name, value) for _ in range(min(1000, runs - first))])


@contextlib.asynccontextmanager
async def client(dsn: str, url: str) -> AsyncIterator[Client]:
    """Intake in this process."""
    clock = Clock()
    queue = ReadyQueue(url)
    async with Session(dsn, "bench intake", clock) as session, Session(dsn, "bench reads", clock) as reads:
        store = PostgresIntakeStore(session)
        revisions = Revisions(PostgresRunStore(reads, reads).revision, default_actions())
        intake = Intake(store, revisions, Offers(queue), clock)
        task = asyncio.ensure_future(intake.run())
        try:
            yield Client(intake, store)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await queue.close()


async def finished(dsn: str, runs: int, *, deadline: float = 120.0) -> float:
    """Wait until so many runs have ended; seconds between the first start and the last end, by the records."""
    async with asyncio.timeout(deadline), await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while True:
            cursor = await connection.execute(
                "SELECT count(*), extract(epoch FROM max(finished_at) - min(started_at))::float FROM runs"
                " WHERE finished_at IS NOT NULL"
            )
            row = await cursor.fetchone()
            assert row is not None
            if row[0] >= runs:
                return float(row[1])
            await asyncio.sleep(0.1)
