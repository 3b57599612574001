"""Redis flushed, killed, restarted empty and unreachable: it costs latency, never a run.

What bounds the latency: an offer that is lost is made again by the leader, which looks every second for runs that have
been queued for two (`QUIET` of `maintenance/readd.py`). A Redis that is silent is noticed after `IDLE_WAIT` of
`dispatch.py` and the call's own limit, 3.2 s together; from then on nobody waits for it: runs end once the next look into
PostgreSQL found them, after 0.75 s at most (`FALLBACK_PAUSE`). Whoever still waited would take 3.2 s, and a start that
waited for its offer `CALL_TIMEOUT`, 2 s: the bounds are just below, so that a slow machine has all that is between.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import drills
import orjson
import pytest
import redis
import services
from fault_proxy import FaultProxy, Mode
from waiting import eventually

from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.connection import CALL_TIMEOUT
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.engine.control import Control
from stepwell_cli.embedded import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from drills import System

NOTICED = 3.2  #: seconds until idle workers notice that Redis is silent
OFFERED = 3.0  #: seconds until a lost offer is made again
SLACK = 3.0  #: seconds for 20 runs that nobody holds up, on a busy machine; less than NOTICED

LOST = "straight from PostgreSQL until Redis is back"
BACK = "Redis is back after"


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def running_valkey(valkey: EmbeddedValkey) -> EmbeddedValkey:
    valkey.start()
    return valkey


@asynccontextmanager
async def at_work(database: str, url: str, **ways: str) -> AsyncIterator[System]:
    """Two workers, one of which leads, that have shown that they work."""
    async with drills.drill(database, url, **ways) as system:
        first = await system.worker(ready=False)
        second = await system.worker(ready=False)
        for worker in (first, second):
            await system.registered(worker)
        await system.ended(await system.start(20))
        await eventually(lambda: any(worker.lines("this worker leads") for worker in system.workers))
        yield system


async def uses_the_queue(system: System, url: str) -> None:
    """Runs go by way of Redis again: the workers take from it, and nobody falls back.

    The workers find Redis before intake does, which pauses after a failure (`PAUSE` of `offers.py`): what is started
    meanwhile is offered by the leader.
    """
    await eventually(lambda: all(len(w.lines(BACK)) == len(w.lines(LOST)) for w in system.workers))
    falls = [len(w.lines(LOST)) for w in system.workers]
    with redis.Redis.from_url(url) as client:
        before = client.info("commandstats").get("cmdstat_fcall", {}).get("calls", 0)
        took = await system.ended(await system.start(20))
        assert client.info("commandstats")["cmdstat_fcall"]["calls"] > before
    assert falls == [len(w.lines(LOST)) for w in system.workers]
    assert took < OFFERED + SLACK, f"{took:.1f} s by way of the queue"


def told_once(system: System, times: int = 1) -> None:
    """Each worker says once that Redis is away, and once that it is back."""
    for worker in system.workers:
        assert len(worker.lines(LOST)) <= times, worker.text()
        assert len(worker.lines("Redis")) <= 5 * times, worker.text()


async def test_runs_whose_offers_were_flushed_are_found_within_seconds(
    database: str, running_valkey: EmbeddedValkey
) -> None:
    async with at_work(database, running_valkey.url) as system:
        system.receiver.open.clear()
        services.flush(running_valkey.url)
        ids = await system.start(20)
        services.flush(running_valkey.url)
        await system.struck("FLUSHALL")
        system.receiver.open.set()
        assert await system.ended(ids) < OFFERED + SLACK
        await uses_the_queue(system, running_valkey.url)
        await system.over()
        assert system.repeated == set()


async def test_flushes_under_load_lose_nothing(database: str, running_valkey: EmbeddedValkey) -> None:
    async with at_work(database, running_valkey.url) as system:
        async with system.load(batch=20):
            for _ in range(5):
                seen = len(system.receiver.effects)
                await eventually(lambda seen=seen: len(system.receiver.effects) > seen + 20)
                services.flush(running_valkey.url)
                await system.struck("FLUSHALL under load")
        await system.over()
        assert system.repeated == set()


async def test_what_others_write_to_redis_cancels_no_run(database: str, running_valkey: EmbeddedValkey) -> None:
    """A hint is true if the database says so."""
    async with at_work(database, running_valkey.url) as system:
        system.receiver.open.clear()
        runs = await system.start(5)
        await eventually(lambda: system.receiver.holding == 5)
        channel = f"{{{system.environment['STEPWELL_REDIS_PREFIX']}}}:cancel"
        with redis.Redis.from_url(running_valkey.url) as client:
            for message in ("{", orjson.dumps(runs)):
                assert client.publish(channel, message) == 2
        await system.struck("hints that nobody gave")
        assert await system.ended(await system.start(5, "pure")) < OFFERED + SLACK
        assert system.receiver.holding == 5
        system.receiver.open.set()
        await system.over()
        assert system.repeated == set()


SLOW = {"STEPWELL_HEARTBEAT": "30s", "STEPWELL_TRUST_WINDOW": "40s", "STEPWELL_DEATH_SILENCE": "50s"}


async def test_a_cancel_does_not_wait_for_a_heartbeat(database: str, running_valkey: EmbeddedValkey) -> None:
    url = running_valkey.url
    async with drills.drill(database, url, **SLOW) as system, Session(database, "test") as session:
        worker = await system.worker()
        system.receiver.open.clear()
        (run,) = await system.start(1)
        await eventually(lambda: system.receiver.holding == 1)
        queue = ReadyQueue(url, system.environment["STEPWELL_REDIS_PREFIX"])
        await Control(PostgresRunStore(session, session), queue).cancel(drills.NAMESPACE, [run])
        await queue.close()
        await system.ended([run], timeout=15)
        assert await system.statuses() == {"cancelled": 1}
        assert worker.running


async def test_a_redis_that_is_killed_and_comes_back_empty_costs_no_run(
    database: str, running_valkey: EmbeddedValkey
) -> None:
    async with at_work(database, running_valkey.url) as system:
        async with system.load(batch=5):
            running_valkey.kill()
            await system.struck("Redis is killed")
            seen = len(system.receiver.effects)
            await eventually(lambda: len(system.receiver.effects) > seen + 50)
        began = time.monotonic()
        await system.ended([run for run, _ in system.accepted.values()])
        assert time.monotonic() - began < SLACK, "a refused connection costs nobody a wait"
        running_valkey.start()
        await uses_the_queue(system, running_valkey.url)
        await system.over()
        told_once(system)
        assert max(system.latencies) < CALL_TIMEOUT, "a start waited for Redis"
        assert system.repeated == set()


async def test_a_redis_out_of_reach_is_done_without(database: str, running_valkey: EmbeddedValkey) -> None:
    async with FaultProxy(services.redis_address(running_valkey.url)) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with at_work(database, running_valkey.url, worker_url=url) as system:
            for mode, noticed in ((Mode.BLACKHOLE, NOTICED), (Mode.REFUSE, 0.0)):
                proxy.mode = mode
                await system.struck(f"the network to Redis: {mode}")
                await done_without(system, noticed)
                proxy.mode = Mode.PASS
                await uses_the_queue(system, running_valkey.url)
            await system.over()
            told_once(system, times=2)
            assert system.repeated == set()


async def test_a_redis_that_is_stopped_is_done_without(database: str, running_valkey: EmbeddedValkey) -> None:
    async with at_work(database, running_valkey.url) as system:
        with stopped(running_valkey):
            await system.struck("Redis is stopped")
            await done_without(system, noticed=NOTICED)
        await uses_the_queue(system, running_valkey.url)
        await system.over()
        told_once(system)
        assert system.repeated == set()


@contextmanager
def stopped(server: EmbeddedValkey) -> Iterator[None]:
    """SIGSTOP while the block runs."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def done_without(system: System, noticed: float) -> None:
    """Starts are answered at once; the first runs end once the silence was noticed, later ones without delay."""
    system.latencies.clear()
    assert await system.ended(await system.start(20)) < noticed + SLACK
    await eventually(lambda: all(len(w.lines(LOST)) > len(w.lines(BACK)) for w in system.workers))
    for _ in range(3):
        assert await system.ended(await system.start(20)) < SLACK
    assert max(system.latencies) < CALL_TIMEOUT, "a start waited for Redis"
