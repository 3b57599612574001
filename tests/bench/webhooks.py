"""Signed webhooks against a gateway while a worker executes: ``python tests/bench/webhooks.py [--profile]`` runs it alone.

Gateway, worker, load generator, PostgreSQL and Valkey are processes of their own and share the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psycopg
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.meters import cpu_of, rss_of
from bench.system import client, finished, workers
from gateways import hmac_of, trigger

HERE = Path(__file__).parent
SECONDS = 5.0
CONNECTIONS = 64
IDLE_RATE = 20.0  # a second, on one connection
HALF_LOAD = 1_000.0  # a second: half of what the budget asks for
PATH = "/hooks/bench/hooked/hook"
TRIGGER = trigger(
    hmac_of(preset="GitHub"),
    input={"email": "{{ body.user.email }}", "age": "{{ body.user.age }}"},
    **{"if": "body.action == 'created'"},
)
SPEC = {"triggers": [TRIGGER], "steps": [{"name": "pick", "transform": {"select": ["email"]}}]}
SCHEMA = {
    "type": "object",
    "required": ["email"],
    "properties": {"email": {"type": "string"}, "age": {"type": "integer"}},
}


@contextlib.contextmanager
def gateway(dsn: str, url: str, profile: str | None = None) -> Iterator[tuple[int, int]]:
    """A gateway process: its port and its process id."""
    environment = os.environ | {"DATABASE_URL": dsn, "REDIS_URL": url, "STEPWELL_QUOTA_QUEUED": "0"}
    script = [str(HERE / "gateway.py")]
    command = [sys.executable, *(["-m", "cProfile", "-o", profile] if profile else []), *script]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


async def load(port: int, seconds: float, connections: int, rate: float) -> dict[str, Any]:
    """What one round of the generator saw."""
    arguments = [str(HERE / "webhook_load.py"), str(port), PATH, str(seconds), str(connections), str(rate)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    found: dict[str, Any] = orjson.loads(output)
    assert not found["refused"], found
    return found


async def webhooks(dsn: str, url: str, profile: str | None = None) -> dict[str, float]:
    """Idle, then as many as the system takes, then half of what the budget asks for, and half of what it took."""
    with workers(1, dsn, url), gateway(dsn, url, profile) as (port, pid):
        async with client(dsn, url) as local:
            await local.apply("hooked", {**SPEC, "inputSchema": SCHEMA})
            await local.preload("hooked", {"email": "a@example.com"}, 100)
        await finished(dsn, 100)
        await load(port, 1.0, 8, 0)
        begun = await _settled(dsn)
        os.sync()
        idle = await load(port, 10.0, 1, IDLE_RATE)
        started_idle = _starts(dsn, idle["accepted"])
        before = cpu_of(pid)
        full = await load(port, SECONDS, CONNECTIONS, 0)
        spent = cpu_of(pid) - before
        total = begun + idle["accepted"] + full["accepted"]
        await finished(dsn, total)
        rate = full["accepted"] / full["seconds"]
        loads = {}
        for name, some in (("half", HALF_LOAD), ("half_of_limit", rate / 2)):
            sent = await load(port, SECONDS, CONNECTIONS, some)
            total += sent["accepted"]
            await finished(dsn, total)
            loads |= _line(name, sent, _starts(dsn, sent["accepted"]))
        rss = rss_of(pid)
    return {
        "accepted_per_s": rate,
        "runs_to_end_per_s": _rate(dsn, begun + idle["accepted"], full["accepted"]),
        "gateway_cpu_us": spent / full["accepted"] * 1e6,
        "p50_ms": idle["p50_ms"],
        "p99_ms": idle["p99_ms"],
        "trigger_to_start_p50_ms": started_idle[0],
        "trigger_to_start_p99_ms": started_idle[1],
        **loads,
        "gateway_rss_mb": rss,
    }


def _line(name: str, sent: dict[str, Any], started: tuple[float, ...]) -> dict[str, float]:
    return {
        f"{name}_p50_ms": sent["p50_ms"],
        f"{name}_p99_ms": sent["p99_ms"],
        f"trigger_to_start_{name}_p50_ms": started[0],
        f"trigger_to_start_{name}_p99_ms": started[1],
    }


async def _settled(dsn: str) -> int:
    """How many runs there are, once all have ended."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM runs").fetchone()
    assert row is not None
    await finished(dsn, row[0])
    return int(row[0])


def _rate(dsn: str, skip: int, count: int) -> float:
    """Runs a second, from the first 202 to the last end of ``count`` runs."""
    return _ask(
        dsn,
        "SELECT count(*) / extract(epoch FROM max(finished_at) - min(created_at))::float"
        " FROM (SELECT * FROM runs ORDER BY id OFFSET %s LIMIT %s) AS r",
        skip,
        count,
    )[0]


def _starts(dsn: str, latest: int) -> tuple[float, ...]:
    """From the trigger to the start of the first step, in ms: p50 and p99 of the latest runs."""
    return _ask(
        dsn,
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY took), percentile_cont(0.99) WITHIN GROUP (ORDER BY took) FROM"
        " (SELECT extract(epoch FROM s.started_at - r.created_at) * 1000 AS took"
        " FROM (SELECT * FROM runs ORDER BY id DESC LIMIT %s) AS r JOIN run_steps s ON s.run_id = r.id) AS t",
        latest,
    )


def _ask(dsn: str, query: str, *params: object) -> tuple[float, ...]:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query, params).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return tuple(map(float, row))


def main() -> None:
    from bench.run import fresh

    from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

    profile = "build/webhooks.prof" if "--profile" in sys.argv else None
    with EmbeddedPostgres() as server, EmbeddedValkey() as valkey:
        for key, value in uvloop.run(webhooks(fresh(server, valkey.url, 1), valkey.url, profile)).items():
            print(f"{key:32} {value:10,.2f}")


if __name__ == "__main__":
    main()
