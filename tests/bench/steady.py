"""Starts while a worker executes: how many a second from start to end, and how late a step starts below that."""

from __future__ import annotations

import asyncio
import time

import psycopg
from bench.meters import rss_of
from bench.system import Client, client, finished, workers
from bench.workloads import INPUT, WORKLOADS

from stepwell.collector import settle

CALLERS = 200  # that start one run after another
SECONDS = 5.0
WARM = 100  # runs before anything is measured


async def saturated(dsn: str, url: str, name: str) -> dict[str, float]:
    """As many starts as the system takes."""
    with workers(1, dsn, url) as pids:
        async with client(dsn, url) as load:
            await _warm(load, dsn, name)
            runs = await _saturate(load, name)
            await finished(dsn, WARM + runs)
        rss = rss_of(pids[0])
    return {"steady_runs_per_s": _rate(dsn, skip=WARM), "steady_rss_mb": rss}


async def spread(dsn: str, url: str, name: str, rate: float) -> dict[str, float]:
    """2,000 starts a second, and half of ``rate``, evenly spread; in a database of their own, for right after a time of full
    load autovacuum works on the same cores.
    """
    with workers(1, dsn, url):
        async with client(dsn, url) as load:
            await _warm(load, dsn, name)
            calm = await _spread(load, name, 2000)
            await finished(dsn, WARM + calm)
            calm_p99 = _start_p99(dsn, calm)
            half = await _spread(load, name, rate / 2)
            await finished(dsn, WARM + calm + half)
    return {"start_p99_ms_at_2000_per_s": calm_p99, "start_p99_ms_at_half": _start_p99(dsn, half)}


async def _warm(load: Client, dsn: str, name: str) -> None:
    await load.apply(name, WORKLOADS[name](0))
    settle()
    await load.preload(name, INPUT, WARM)
    await finished(dsn, WARM)


async def _saturate(load: Client, name: str) -> int:
    until = time.monotonic() + SECONDS

    async def caller() -> int:
        started = 0
        while time.monotonic() < until:
            await load.start(name, INPUT)
            started += 1
        return started

    return sum(await asyncio.gather(*[caller() for _ in range(CALLERS)]))


async def _spread(load: Client, name: str, rate: float) -> int:
    """Open loop: starts at their intended times, whether or not earlier ones were answered."""
    began = time.monotonic()
    total = int(rate * SECONDS)
    starting: set[asyncio.Task[str]] = set()  # only those under way: the collector of this process must not pause it
    for number in range(total):
        ahead = began + number / rate - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        task = asyncio.ensure_future(load.start(name, INPUT))
        starting.add(task)
        task.add_done_callback(starting.discard)
    await asyncio.gather(*starting)
    return total


def _rate(dsn: str, skip: int) -> float:
    """Runs a second between the first start and the last end of those after the first ``skip``."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) / extract(epoch FROM max(finished_at) - min(created_at))::float"
            " FROM (SELECT * FROM runs ORDER BY id OFFSET %s) AS r",
            [skip],
        ).fetchone()
    assert row is not None
    return float(row[0])


def _start_p99(dsn: str, latest: int) -> float:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM s.started_at - r.created_at)) * 1000"
            " FROM (SELECT * FROM runs ORDER BY id DESC LIMIT %s) AS r JOIN run_steps s ON s.run_id = r.id",
            [latest],
        ).fetchone()
    assert row is not None
    return float(row[0])
