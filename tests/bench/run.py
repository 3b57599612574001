"""The performance budget, measured: ``python tests/bench/run.py [--rounds N] [--quick]``.

Prints a table and writes build/bench.json. PostgreSQL and Valkey are embedded with fsync and synchronous_commit on;
they, the workers, the receiver and this load generator share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import redis
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.meters import Meters, rss_of
from bench.steady import saturated, spread
from bench.system import Client, client, finished, receiver, workers
from bench.webhooks import webhooks
from bench.workloads import INPUT, ITEMS, WORKLOADS

from stepwell.adapters.postgres.migrate import migrate
from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

RUNS = {"one_step": 20_000, "three_step": 6_000, "forty_step": 500}
PROBES = 200  # single runs for latency on an idle system


async def drain(
    dsn: str, url: str, name: str, port: int, runs: int, processes: int, value: dict[str, Any] = INPUT
) -> dict[str, float]:
    """Preload a backlog, then start the workers: how fast is it drained, and at what cost a run."""
    meters = Meters(dsn, url)
    position, disk = meters.wal_position(), meters.disk()
    async with client(dsn, url) as load:
        await load.apply(name, (WORKLOADS | ITEMS)[name](port))
        await load.preload(name, value, runs)
    before = meters.read()
    with workers(processes, dsn, url) as pids:
        seconds = await finished(dsn, runs)
        await asyncio.sleep(1.2)  # the statistics of the server are sent once a second
        used = meters.read(pids)
        rss = max(map(rss_of, pids))
        wal, disk = meters.wal_since(position), meters.disk() - disk
    cost = used - before
    meters.close()
    return {
        "runs_per_s": runs / seconds,
        "commits_per_run": cost.writes / runs,
        "statements_per_run": cost.statements / runs,
        "wal_bytes_per_run": wal / runs,
        "disk_bytes_per_run": disk / runs,
        "redis_calls_per_run": cost.redis_calls / runs,
        "cpu_s_per_1000": cost.cpu / runs * 1000,
        "rss_mb": rss,
    }


async def latency(dsn: str, url: str, name: str, port: int) -> dict[str, float]:
    """One run at a time on an idle system, in milliseconds: until it is durable, until its first step starts."""
    with workers(1, dsn, url):
        async with client(dsn, url) as load:
            await load.apply(name, WORKLOADS[name](port))
            await load.preload(name, INPUT, 1)
            await finished(dsn, 1)
            durable = [await _probe(load, name) for _ in range(PROBES)]
            await finished(dsn, PROBES + 1)
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT extract(epoch FROM min(s.started_at) - r.created_at)::float * 1000,"
            " extract(epoch FROM max(s.finished_at) - min(s.started_at))::float * 1000 / count(*),"
            " extract(epoch FROM r.finished_at - r.created_at)::float * 1000"
            " FROM runs r JOIN run_steps s ON s.run_id = r.id GROUP BY r.id ORDER BY r.id"
        ).fetchall()
    starts, steps, ends = ([row[i] for row in rows[1:]] for i in range(3))
    return {
        "durable_p50_ms": statistics.median(durable),
        "durable_p99_ms": _p99(durable),
        "p50_ms": statistics.median(starts),
        "p99_ms": _p99(starts),
        "end_p50_ms": statistics.median(ends),
        "ms_per_step": statistics.median(steps),
    }


async def _probe(load: Client, name: str) -> float:
    began = time.perf_counter()
    await load.start(name, INPUT)
    took = (time.perf_counter() - began) * 1000
    await asyncio.sleep(0.02)
    return took


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def fresh(server: EmbeddedPostgres, url: str, number: int) -> str:
    """An empty, migrated database, and an empty Redis. Both are on the disk: what a new database and initdb wrote would go
    there half a minute later, and every commit would wait behind it, some for 80 ms.
    """
    redis.Redis.from_url(url).flushall()
    name = f"bench{number}"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    dsn = server.dsn(name)
    asyncio.run(migrate(dsn))
    os.sync()
    return dsn


def measure(rounds: int, scale: float) -> dict[str, Any]:
    """All workloads, ``rounds`` times in turn; medians."""
    results: dict[str, list[dict[str, float]]] = {}
    numbers = iter(range(1, 10_000))
    with EmbeddedPostgres() as server, EmbeddedValkey() as valkey, receiver() as (port, _):
        for _ in range(rounds):
            for name in WORKLOADS:
                for processes in (1, 2):
                    dsn = fresh(server, valkey.url, next(numbers))
                    runs = max(100, int(RUNS[name] * scale))
                    found = uvloop.run(drain(dsn, valkey.url, name, port, runs, processes))
                    key = name if processes == 1 else f"{name}_2_workers"
                    results.setdefault(key, []).append(found)
                dsn = fresh(server, valkey.url, next(numbers))
                found = uvloop.run(latency(dsn, valkey.url, name, port))
                results[name][-1].update(found)
            dsn = fresh(server, valkey.url, next(numbers))
            found = uvloop.run(saturated(dsn, valkey.url, "one_step"))
            dsn = fresh(server, valkey.url, next(numbers))
            found |= uvloop.run(spread(dsn, valkey.url, "one_step", found["steady_runs_per_s"]))
            results["one_step"][-1].update(found)
            dsn = fresh(server, valkey.url, next(numbers))
            results.setdefault("webhook", []).append(uvloop.run(webhooks(dsn, valkey.url)))
    return {name: _medians(found) for name, found in results.items()}


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(f[key] for f in found), 4) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of runs")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    workloads = measure(arguments.rounds, arguments.scale)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine, "workloads": workloads}, indent=2) + "\n")
    for name, figures in workloads.items():
        print(name)
        for key, value in figures.items():
            print(f"  {key:22} {value:12,.3f}")


if __name__ == "__main__":
    main()
