"""Intake's group commit: few transactions, one run a key, a refusal for the guilty only, and no doubt left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
import pytest
from fault_proxy import FaultProxy, Mode
from protocol import revision
from psycopg.conninfo import make_conninfo
from services import postgres_address
from waiting import eventually

from stepwell.actions.registry import default_actions
from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue import ReadyQueue
from stepwell.domain.errors import DataRefusedError, InputError, NotFoundError, UnavailableError
from stepwell.domain.ids import deterministic_uuid7
from stepwell.engine import intake as module
from stepwell.engine.clock import Clock
from stepwell.engine.intake import Intake, Start, SuspendedError
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.revisions import Revisions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from stepwell.engine.ports import Accepted, NewRun

NOWHERE = "redis://127.0.0.1:1/0"


@dataclass(slots=True)
class Door:
    """A gateway's intake, and the database behind it."""

    intake: Intake
    store: PostgresIntakeStore
    queue: ReadyQueue
    dsn: str
    task: asyncio.Task[None] = field(repr=False)

    def start(self, key: str | None = None, order: int = 7, **fields: object) -> asyncio.Task[Accepted]:
        """A start under way."""
        start = Start("shop", "order", {"order": order}, key=key, **fields)  # type: ignore[arg-type]
        return asyncio.ensure_future(self.intake.start(start))

    def runs(self) -> set[str]:
        """The ids of all runs."""
        with psycopg.connect(self.dsn) as connection:
            return {str(row[0]) for row in connection.execute("SELECT id FROM runs").fetchall()}


@contextlib.asynccontextmanager
async def opened(dsn: str, redis: str = NOWHERE, through: FaultProxy | None = None) -> AsyncIterator[Door]:
    """An intake over the database, or over a proxy before it."""
    path = dsn if through is None else make_conninfo(dsn, host=through.host, port=through.port, sslmode="disable")
    queue = ReadyQueue(redis, "stepwell")
    async with Session(path, "intake") as session, Session(path, "revisions") as other:
        store = PostgresIntakeStore(session)
        await store.apply(revision())
        revisions = Revisions(PostgresRunStore(other, other).revision, default_actions())
        intake = Intake(store, revisions, Offers(queue), Clock())
        task = asyncio.ensure_future(intake.run())
        try:
            yield Door(intake, store, queue, dsn, task)
        finally:
            task.cancel()
            await asyncio.gather(task, *intake._hints, return_exceptions=True)
            await queue.close()


def fresh(answers: Iterable[Accepted]) -> list[Accepted]:
    return [answer for answer in answers if not answer.repeated]


# -- group commit ----------------------------------------------------------------------------------------------------------


async def test_a_thousand_starts_at_once_share_few_commits(database: str) -> None:
    async with opened(database) as door:
        answers = await asyncio.gather(*(door.start() for _ in range(1_000)))
        assert door.runs() == {answer.id for answer in answers}
        assert len(fresh(answers)) == 1_000
        assert door.intake.commits <= 5


async def test_a_lone_start_commits_at_once(database: str) -> None:
    async with opened(database) as door:
        for number in range(3):
            answer = await door.start()
            assert door.intake.commits == number + 1
            assert answer.id in door.runs()


async def test_large_inputs_do_not_gather_into_one_huge_statement(database: str) -> None:
    async with opened(database) as door:
        await door.start()
        text = "x" * 1_000_000
        starts = [door.intake.start(Start("shop", "order", {"text": text})) for _ in range(12)]
        assert len(await asyncio.gather(*starts)) == 12
        assert door.intake.commits >= 1 + 2


async def test_accepted_runs_are_offered_and_repeats_are_not(database: str, redis_url: str) -> None:
    async with opened(database, redis_url) as door:
        first = await door.start("order-7")
        again = await door.start("order-7")
        assert again.id == first.id
        await eventually(lambda: not door.intake._hints)
        assert await door.queue.take(10) == [first.id]


async def test_an_absent_redis_delays_no_answer(database: str) -> None:
    async with opened(database, NOWHERE) as door:
        answers = await asyncio.gather(*(door.start() for _ in range(20)))
        assert len(door.runs()) == len(answers) == 20


# -- keys ------------------------------------------------------------------------------------------------------------------


async def test_the_same_key_at_once_starts_one_run_and_everybody_is_answered(database: str) -> None:
    async with opened(database) as door:
        answers = await asyncio.gather(*(door.start("order-7", order=n % 2) for n in range(200)))
        assert {answer.id for answer in answers} == door.runs()
        assert len(door.runs()) == 1
        (first,) = fresh(answers)
        assert not first.input_differs
        assert [a.input_differs for a in answers] == [n % 2 != answers.index(first) % 2 for n in range(200)]


async def test_the_order_of_an_inputs_keys_makes_no_difference(database: str) -> None:
    async with opened(database) as door:
        await door.intake.start(Start("shop", "order", {"a": 1, "b": {"c": 2, "d": 3}}, key="7"))
        again = await door.intake.start(Start("shop", "order", {"b": {"d": 3, "c": 2}, "a": 1}, key="7"))
        assert (again.repeated, again.input_differs) == (True, False)


async def test_two_gateways_agree_on_every_key(database: str) -> None:
    async with opened(database) as one, opened(database) as two:
        keys = [f"order-{n}" for n in range(100)]
        asked = [door.start(key) for keys_, door in ((keys, one), (keys[::-1], two)) for key in keys_]
        answers = await asyncio.gather(*asked)
        assert len(one.runs()) == len(fresh(answers)) == 100
        assert {a.id for a in answers[:100]} == {a.id for a in answers[100:]} == one.runs()


# -- refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "why"),
    [("nul\0", "unsupported Unicode"), ("x" * 257, "check constraint"), ("half \ud800", "surrogates not allowed")],
    ids=["nul", "too long", "lone surrogate"],
)
async def test_a_start_that_the_database_refuses_stops_no_other(database: str, key: str, why: str) -> None:
    async with opened(database) as door:
        guilty = [door.start(key), door.start(key)]
        innocent = [door.start(f"order-{n}") for n in range(60)]
        refusals = await asyncio.gather(*guilty, return_exceptions=True)
        assert all(isinstance(refusal, DataRefusedError) and why in str(refusal) for refusal in refusals)
        assert {answer.id for answer in await asyncio.gather(*innocent)} == door.runs()
        assert (await door.start()).id in door.runs(), "and intake goes on"


async def test_what_cannot_be_started_is_refused_with_the_reason(database: str) -> None:
    async with opened(database) as door:
        with pytest.raises(NotFoundError, match="there is no workflow shop/nothing"):
            await door.intake.start(Start("shop", "nothing", {}))
        with pytest.raises(InputError, match="a run's input is a JSON object"):
            await door.intake.start(Start("shop", "order", [1]))
        with pytest.raises(InputError, match="no priority 'Urgent'; it is one of Low, Normal, High"):
            await door.start(priority="Urgent")
        await door.store.apply(revision(suspended=True))
        door.intake.active.clear()
        with pytest.raises(SuspendedError, match="shop/order is suspended"):
            await door.start()
        assert door.runs() == set()


async def test_a_suspension_is_obeyed_at_once_though_the_revision_is_cached(database: str) -> None:
    async with opened(database) as door:
        await door.start()
        await door.store.apply(revision(suspended=True))
        with pytest.raises(SuspendedError):
            await door.start()
        assert len(door.runs()) == 1


async def test_a_start_after_a_change_runs_the_new_revision(database: str) -> None:
    async with opened(database) as door:
        await door.start()
        changed = await door.store.apply(revision(b"2"))
        answer = await door.start()
        with psycopg.connect(database) as connection:
            row = connection.execute("SELECT revision_id FROM runs WHERE id = %s", [answer.id]).fetchone()
        assert row == (changed.revision_id,)


async def test_nobody_waits_for_an_intake_that_stopped(database: str) -> None:
    async with FaultProxy(postgres_address(database)) as proxy, opened(database, through=proxy) as door:
        await door.start()
        proxy.mode = Mode.BLACKHOLE
        asked = [door.start() for _ in range(3)]
        await eventually(lambda: not door.intake._waiting and not door.intake._work.is_set())
        door.task.cancel()
        proxy.mode = Mode.PASS
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, UnavailableError) for answer in answers)


# -- the network -----------------------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_is_unavailable_and_then_it_is_not(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    async with FaultProxy(postgres_address(database)) as proxy, opened(database, through=proxy) as door:
        await door.start()
        proxy.mode = Mode.REFUSE
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="PostgreSQL is not available"):
            await door.start()
        assert time.monotonic() - began < 5.0
        assert proxy.counts["reset"] > 0
        proxy.mode = Mode.PASS
        assert (await door.start()).id in door.runs()


@pytest.mark.parametrize("key", [None, "order-7"], ids=["plain", "keyed"])
async def test_a_lost_answer_to_a_commit_doubles_nothing(database: str, key: str | None) -> None:
    async with FaultProxy(postgres_address(database)) as proxy, opened(database, through=proxy) as door:
        await door.start()
        before = door.runs()
        proxy.drop_reply(b"accept_runs")
        answers = await asyncio.gather(*(door.start(key) for _ in range(10)))
        assert proxy.counts["dropped"] == 1
        expected = 10 if key is None else 1
        assert door.runs() - before == {answer.id for answer in answers}
        assert len({answer.id for answer in answers}) == len(fresh(answers)) == expected


async def test_a_lost_answer_is_read_back_though_the_workflow_was_suspended_meanwhile(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FaultProxy(postgres_address(database)) as proxy, opened(database, through=proxy) as door:
        await door.start()
        before = door.runs()
        accept = door.store.accept

        async def suspended_in_between(runs: Sequence[NewRun], *, again: bool = False) -> dict[str, Accepted]:
            try:
                return await accept(runs, again=again)
            except UnavailableError:
                async with Session(database, "operator") as session:
                    await PostgresIntakeStore(session).apply(revision(suspended=True))
                raise

        monkeypatch.setattr(door.store, "accept", suspended_in_between)
        proxy.drop_reply(b"accept_runs")
        answer = await door.start()
        assert proxy.counts["dropped"] == 1
        assert {answer.id} == door.runs() - before


async def test_what_is_stored_is_our_own_serialisation(database: str) -> None:
    async with opened(database) as door:
        answer = await door.intake.start(Start("shop", "order", {"é": [1.5, None, "\u2028"], "n": 2**63 - 1}))
        with psycopg.connect(database) as connection:
            row = connection.execute("SELECT input_data::text FROM runs WHERE id = %s", [answer.id]).fetchone()
        assert row is not None
        assert json.loads(row[0]) == {"é": [1.5, None, "\u2028"], "n": 2**63 - 1}
        assert " " not in row[0]


async def test_a_deterministic_id_leads_to_one_run(database: str) -> None:
    """Also where it comes again with another batch, after the answer was lost and the process with it."""
    fixed = deterministic_uuid7(int(time.time() * 1000), "uid-1")
    async with opened(database) as door:
        first = await door.start(run_id=fixed)
        again, other = await asyncio.gather(door.start(run_id=fixed), door.start())
        assert first.id == again.id == fixed
        assert door.runs() == {fixed, other.id}
