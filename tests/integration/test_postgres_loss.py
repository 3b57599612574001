"""PostgreSQL killed, restarted and cut off: everything waits, nothing is lost, and no living worker repeats an effect.

A worker that lives through an outage keeps its runs: what it could not record it records afterwards. So in all of these
drills but the last two a repeated effect is a defect.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import drills
import lending
import psycopg
import pytest
import services
from fault_proxy import FaultProxy, Mode
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from waiting import eventually

from stepwell.adapters.postgres.liveness import Liveness
from stepwell.adapters.postgres.session import Session
from stepwell.domain.errors import UnavailableError
from stepwell_cli.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from drills import System, WorkerProcess

QUICK_RECOVERY = {"recovery_init_sync_method": "syncfs"}  #: instead of a sync of each of thousands of files
AGAIN = 15.0
"""Seconds after which everybody is connected again: a connect that began in the silence (5 s), a back-off (2), a beat, and
as much again for a busy machine. Whoever still waited for a statement's own limit would take 30.
"""
LIBPQ = 2.0  #: seconds, the least that libpq waits while it connects


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(settings=QUICK_RECOVERY) as server:
        yield server


@pytest.fixture(scope="module")
def mortal_databases(postgres: EmbeddedPostgres) -> Iterator[lending.Databases]:
    made = lending.Databases(postgres.dsn())
    yield made
    made.close()


@pytest.fixture
def mortal(postgres: EmbeddedPostgres, mortal_databases: lending.Databases) -> Iterator[str]:
    """A database on a server that may be killed."""
    postgres.start()
    with mortal_databases.clone() as dsn:
        yield dsn
        postgres.start()


def through(proxy: FaultProxy, dsn: str) -> str:
    """The same database by way of the proxy."""
    parts = conninfo_to_dict(dsn) | {"host": proxy.host, "port": proxy.port}
    return make_conninfo(**parts, sslmode="disable", gssencmode="disable")


@asynccontextmanager
async def at_work(dsn: str, url: str, **ways: str) -> AsyncIterator[System]:
    """Two workers that have shown that they work."""
    async with drills.drill(dsn, url, **ways) as system:
        for worker in [await system.worker(ready=False) for _ in range(2)]:
            await system.registered(worker)
        await system.ended(await system.start(20))
        yield system


async def over_without_a_death(system: System) -> None:
    """No worker died, not even on paper, so nothing was done twice."""
    await system.over()
    assert await system.rows("SELECT id FROM workers WHERE dead_at IS NOT NULL") == []
    assert system.repeated == set()
    assert await system.rows("SELECT id FROM runs WHERE suspicion > 0") == []


async def test_a_server_that_crashes_and_recovers_under_load_loses_nothing(
    postgres: EmbeddedPostgres, mortal: str, valkey_server: str
) -> None:
    async with at_work(mortal, valkey_server) as system:
        async with system.load():
            for _ in range(2):
                seen = len(system.receiver.effects)
                await eventually(lambda seen=seen: len(system.receiver.effects) > seen + 50)
                await asyncio.to_thread(postgres.kill)
                await asyncio.to_thread(postgres.start)
                await system.struck("PostgreSQL is killed and started again")
            await asyncio.to_thread(postgres.restart)
            await system.struck("PostgreSQL is restarted")
            seen = len(system.receiver.effects)
            await eventually(lambda: len(system.receiver.effects) > seen + 50, AGAIN)
        await over_without_a_death(system)


BACKENDS: Final = "FROM pg_stat_activity WHERE application_name LIKE 'stepwell%%' AND datname = current_database()"


async def test_backends_that_are_terminated_under_load_cost_nothing(database: str, valkey_server: str) -> None:
    async with at_work(database, valkey_server) as system:
        async with system.load():
            for _ in range(5):
                seen = len(system.receiver.effects)
                await eventually(lambda seen=seen: len(system.receiver.effects) > seen + 30)
                await eventually(lambda: system.rows(f"SELECT count(*) {BACKENDS} HAVING count(*) > 4"))
                await system.rows(f"SELECT pg_terminate_backend(pid) {BACKENDS}")
                await system.struck("backends are terminated")
        await over_without_a_death(system)


async def test_a_bad_network_to_postgresql_loses_nothing(database: str, valkey_server: str) -> None:
    async with FaultProxy(services.postgres_address(database)) as proxy:
        way = through(proxy, database)
        async with at_work(database, valkey_server, worker_dsn=way, intake_dsn=way) as system:
            async with system.load():
                for mode in (
                    Mode.RESET,
                    Mode.REFUSE,
                    Mode.BLACKHOLE,
                    Mode.SLOW,
                    Mode.BLACKHOLE,
                    Mode.REFUSE,
                    Mode.RESET,
                ):
                    seen = len(system.receiver.effects)
                    await eventually(lambda seen=seen: len(system.receiver.effects) > seen + 20, AGAIN)
                    proxy.mode = mode
                    await system.struck(f"the network to PostgreSQL: {mode}")
                    if mode is Mode.SLOW:
                        await eventually(lambda seen=seen: len(system.receiver.effects) > seen + 40, AGAIN)
                    else:
                        await stands_still(system)
                    proxy.mode = Mode.PASS
            await over_without_a_death(system)


async def stands_still(system: System) -> None:
    """Until no effect has begun for a third of a second: nothing gets through any more."""
    seen = [len(system.receiver.effects), time.monotonic()]

    def quiet() -> bool:
        if len(system.receiver.effects) != seen[0]:
            seen[:] = [len(system.receiver.effects), time.monotonic()]
        return time.monotonic() - seen[1] > 0.3

    await eventually(quiet)


AT_ONCE = 1.0  # seconds
STATEMENTS = {"claim": b"claim_token = ", "flush": b"recorded AS", "accept": b"accept_runs"}


async def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_doubled(database: str, valkey_server: str) -> None:
    async with FaultProxy(services.postgres_address(database)) as proxy:
        way = through(proxy, database)
        async with at_work(database, valkey_server, worker_dsn=way, intake_dsn=way) as system:
            async with system.load():
                for name in [*STATEMENTS] * 3:
                    lost = proxy.counts["dropped"]
                    proxy.drop_reply(STATEMENTS[name])
                    await eventually(lambda lost=lost: proxy.counts["dropped"] > lost)
                    await system.struck(f"the answer to a {name} is lost")
            await over_without_a_death(system)
            log = "".join(worker.text() for worker in system.workers)
            assert "the answer to a claim was lost" in log
            assert "wait for their flush" in log


async def test_an_outage_longer_than_the_silence_kills_no_worker_on_paper(
    postgres: EmbeddedPostgres, mortal: str, valkey_server: str
) -> None:
    async with at_work(mortal, valkey_server) as system:
        system.receiver.open.clear()
        ids = await system.start(10)
        await eventually(lambda: system.receiver.holding == 10)
        await system.struck("PostgreSQL is away for longer than the silence")
        await asyncio.to_thread(postgres.kill)
        began = time.monotonic()
        system.receiver.open.set()
        await eventually(lambda: time.monotonic() - began > 1.5 * drills.SILENCE)
        await asyncio.to_thread(postgres.start)
        assert await system.ended(ids) < AGAIN
        await over_without_a_death(system)


async def test_a_silent_network_longer_than_the_silence_kills_no_worker_on_paper(
    database: str, valkey_server: str
) -> None:
    async with (
        FaultProxy(services.postgres_address(database)) as proxy,
        at_work(database, valkey_server, worker_dsn=through(proxy, database)) as system,
    ):
        system.receiver.open.clear()
        ids = await system.start(10)
        await eventually(lambda: system.receiver.holding == 10)
        await system.struck("the network is silent for longer than the silence")
        proxy.mode = Mode.BLACKHOLE
        began = time.monotonic()
        system.receiver.open.set()
        await eventually(lambda: time.monotonic() - began > 1.5 * drills.SILENCE)
        proxy.mode = Mode.PASS
        assert await system.ended(ids) < AGAIN
        await over_without_a_death(system)


async def test_a_leader_cut_off_from_postgresql_is_replaced_and_returns_under_another_id(
    database: str, valkey_server: str
) -> None:
    async with (
        FaultProxy(services.postgres_address(database)) as proxy,
        drills.drill(database, valkey_server) as system,
    ):
        leader = await system.worker(DATABASE_URL=through(proxy, database))
        await eventually(lambda: leader.lines("this worker leads"))
        system.receiver.open.clear()
        ids = await system.start(5)
        await eventually(lambda: system.receiver.holding == 5)
        (former,) = await system.lives(leader)
        other = await system.worker()
        proxy.mode = Mode.BLACKHOLE
        await system.struck("the leader is cut off", repeats=True)
        await eventually(lambda: system.receiver.holding == 10, 20)
        assert other.lines(f"worker {former} has not beaten")
        system.receiver.open.set()
        await system.ended(ids)
        proxy.mode = Mode.PASS
        await eventually(lambda: leader.lines("it begins anew under another id"), AGAIN)
        await system.registered(leader)
        await system.over()
        assert system.repeated == {f"{run}/create" for run in ids}


async def test_a_worker_starts_before_its_database_and_ends_without_it(
    postgres: EmbeddedPostgres, mortal: str, valkey_server: str
) -> None:
    async with drills.drill(mortal, valkey_server, STEPWELL_GRACE="500ms") as system:
        await asyncio.to_thread(postgres.kill)
        early = await system.worker(ready=False)
        leaving = await system.worker(ready=False)
        await eventually(lambda: early.lines("not available") and leaving.lines("not available"), drills.START)
        leaving.signal(signal.SIGTERM)
        assert await leaving.ended(15) == 0
        await asyncio.to_thread(postgres.start)
        await system.registered(early)
        await system.ended(await system.start(10))
        await leaves_without_postgresql(system, postgres, early)
        await system.worker()
        await system.over()


async def leaves_without_postgresql(system: System, postgres: EmbeddedPostgres, worker: WorkerProcess) -> None:
    system.receiver.open.clear()
    await system.start(5)
    await eventually(lambda: system.receiver.holding == 5)
    await system.struck("SIGTERM while PostgreSQL is away", repeats=True)
    await asyncio.to_thread(postgres.kill)
    worker.signal(signal.SIGTERM)
    assert await worker.ended(15) == 0
    system.receiver.open.set()
    await asyncio.to_thread(postgres.start)


# -- one connection ----------------------------------------------------------------------------------------------------


async def test_a_statement_without_an_answer_ends_with_its_patience(database: str) -> None:
    async with (
        FaultProxy(services.postgres_address(database)) as proxy,
        Session(through(proxy, database), "patient", patience=0.3) as session,
    ):
        assert await session.execute("SELECT 1") == [(1,)]
        proxy.mode = Mode.BLACKHOLE
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=r"did not answer within 0\.3 s"):
            await session.execute("SELECT 2")
        assert time.monotonic() - began < 0.3 + AT_ONCE, "the cut itself takes no time"
        proxy.mode = Mode.PASS
        assert await session.execute("SELECT 3") == [(3,)]


async def test_a_cancelled_statement_ends_at_once_on_a_silent_network(database: str) -> None:
    async with (
        FaultProxy(services.postgres_address(database)) as proxy,
        Session(through(proxy, database), "cancelled") as session,
    ):
        await session.execute("SELECT 1")
        proxy.mode = Mode.BLACKHOLE
        asking = asyncio.ensure_future(session.execute("SELECT 2"))
        await eventually(lambda: session.statements == 2)
        began = time.monotonic()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert time.monotonic() - began < AT_ONCE
        proxy.mode = Mode.PASS
        assert await session.execute("SELECT 3") == [(3,)]


async def test_a_heartbeat_ends_with_its_deadline_and_the_next_one_connects_again(database: str) -> None:
    async with FaultProxy(services.postgres_address(database)) as proxy:
        liveness = Liveness(through(proxy, database), deadline=0.3)
        worker = await asyncio.to_thread(liveness.register, "here", 1, "test")
        proxy.mode = Mode.BLACKHOLE
        began = time.monotonic()
        with pytest.raises(UnavailableError):
            await asyncio.to_thread(liveness.beat, worker)
        assert time.monotonic() - began < LIBPQ, "the deadline is 0.3 s, and nobody connects again within this beat"
        proxy.mode = Mode.PASS
        assert await asyncio.to_thread(liveness.beat, worker)
        await asyncio.to_thread(liveness.close)
    with psycopg.connect(database) as connection:
        (counter,) = connection.execute("SELECT counter FROM workers").fetchall()[0]
    assert counter in {1, 2}, "what had been held up may flow on later"


async def test_a_session_that_is_closed_ends_the_statement_in_flight(database: str) -> None:
    """And not under it: libpq's memory was freed while somebody waited, which could crash the process at its end."""
    session = Session(database, "closing")
    await session.execute("SELECT 1")
    asking = asyncio.ensure_future(session.execute("SELECT pg_sleep(600)"))
    await eventually(session._lock.locked)
    async with asyncio.timeout(10):
        await session.close()
        with pytest.raises(UnavailableError):
            await asking
    assert await session.execute("SELECT 1") == [(1,)]
    await session.close()
