"""What workers and gateways met of Secrets reaches the operator, is written rarely, and goes away by itself."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from waiting import eventually

from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.secret_troubles import PostgresTroubleStore, SecretTroubles, noting
from stepwell.adapters.postgres.session import Session
from stepwell.domain.secrets import NO_NOTES, SecretError, Trouble
from stepwell.engine import secret_troubles
from stepwell.engine.apply import NewRevision
from stepwell.engine.secret_troubles import TroubleNotes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MISSING = SecretError("SecretMissing", "there is no Secret api")
FORBIDDEN = SecretError("SecretForbidden", "it may not be read")
AWAY = SecretError("SecretsUnavailable", "later")


class Feed:
    """A database with workflows, and processes of each kind; `now` is their monotonic clock."""

    def __init__(self, session: Session, dsn: str) -> None:
        self.session, self.dsn, self.now = session, dsn, 0.0
        self.shown = SecretTroubles(session)
        self.numbers: dict[str, int] = {}

    async def apply(self, *names: str, version: bytes = b"1") -> None:
        for name in names:
            revision = NewRevision("growth", name, b"{}", version.rjust(32), [], False, 3600, 3600)
            active = await PostgresIntakeStore(self.session).apply(revision)
            self.numbers[name] = active.workflow_id

    def process(self, reader: str = "worker") -> TroubleNotes:
        return TroubleNotes(PostgresTroubleStore(self.session, reader), monotonic=lambda: self.now)

    async def troubles(self) -> dict[str, list[str]]:
        names = {number: name for name, number in self.numbers.items()}
        return {names[number]: [trouble.reason for trouble in found] for number, found in (await self.shown.troubles()).items()}  # fmt: skip

    async def age(self, seconds: float) -> None:
        await self.session.execute("UPDATE secret_troubles SET noted_at = noted_at - make_interval(secs => %(s)s)", {"s": seconds})  # fmt: skip


@asynccontextmanager
async def feed(dsn: str, *names: str) -> AsyncIterator[Feed]:
    async with Session(dsn, "test") as session:
        made = Feed(session, dsn)
        await made.apply(*names)
        yield made


async def test_troubles_are_shown_by_workflow_secret_and_reader(database: str) -> None:
    async with feed(database, "a", "b", "c") as at:
        worker, gateway = at.process(), at.process("gateway")
        worker.met("growth", "a", "api", MISSING)
        worker.met("growth", "a", "other", FORBIDDEN)
        worker.met("growth", "b", "api", AWAY)
        worker.met("growth", "c", "api", None)
        worker.met("growth", "unknown", "api", MISSING)
        gateway.met("growth", "b", "hook", FORBIDDEN)
        await worker.look()
        await gateway.look()
        assert await at.troubles() == {"a": ["SecretMissing", "SecretForbidden"], "b": ["SecretForbidden"]}
        assert (await at.shown.troubles())[at.numbers["a"]][0] == Trouble("SecretMissing", "there is no Secret api")
        gateway.met("growth", "a", "api", None)  # the gateway may read what the worker may not
        await gateway.look()
        assert (await at.troubles())["a"] == ["SecretMissing", "SecretForbidden"]


async def test_only_changes_are_written(database: str) -> None:
    async with feed(database, "a") as at:
        worker = at.process()

        async def statements() -> int:
            before = at.session.statements
            await worker.look()
            return at.session.statements - before

        assert await statements() == 2  # standing, tidy
        for error in (None, MISSING, MISSING):
            for _ in range(100):
                worker.met("growth", "a", "api", error)
        assert await statements() == 1
        for _ in range(100):
            worker.met("growth", "a", "api", MISSING)
            assert await statements() == 0
        worker.met("growth", "a", "api", FORBIDDEN)
        worker.met("growth", "a", "api", MISSING)  # back before anything was written
        worker.met("growth", "a", "api", FORBIDDEN)
        assert await statements() == 1
        assert await at.troubles() == {"a": ["SecretForbidden"]}
        for _ in range(100):
            worker.met("growth", "a", "api", None)
        assert await statements() == 1
        for _ in range(100):
            worker.met("growth", "a", "api", None)
        assert await statements() == 0
        assert await at.troubles() == {}


async def test_another_process_finds_it_fine(database: str) -> None:
    async with feed(database, "a") as at:
        one, other = at.process(), at.process()
        await other.look()
        one.met("growth", "a", "api", MISSING)
        await one.look()
        other.met("growth", "a", "api", None)  # it does not know that there was trouble
        await other.look()
        assert await at.troubles() == {"a": ["SecretMissing"]}
        at.now = secret_troubles.RELOAD
        await other.look()
        other.met("growth", "a", "api", None)
        await other.look()
        assert await at.troubles() == {}
        one.met("growth", "a", "api", MISSING)  # it believes that this stands
        await one.look()
        one.met("growth", "a", "api", MISSING)
        await one.look()
        assert await at.troubles() == {"a": ["SecretMissing"]}


async def test_another_spec_age_and_a_deletion_end_it(database: str) -> None:
    async with feed(database, "a", "b", "c") as at:
        worker = at.process()
        for name in ("a", "b", "c"):
            worker.met("growth", name, "api", MISSING)
        await worker.look()
        await at.apply("a", version=b"2")
        await at.session.execute("UPDATE workflows SET deleted_at = now() WHERE name = 'b'")
        assert await at.troubles() == {"c": ["SecretMissing"]}
        await at.age(172_801)
        assert await at.troubles() == {}
        at.now = secret_troubles.TIDY
        await worker.look()
        assert await at.session.execute("SELECT count(*) FROM secret_troubles") == [(0,)]
        worker.met("growth", "a", "api", MISSING)  # of the new revision
        at.now += secret_troubles.RELOAD
        await worker.look()
        worker.met("growth", "a", "api", MISSING)
        await worker.look()
        assert await at.troubles() == {"a": ["SecretMissing"]}


async def test_what_goes_on_is_written_again_before_it_grows_old(database: str) -> None:
    async with feed(database, "a") as at:
        worker = at.process()
        worker.met("growth", "a", "api", MISSING)
        await worker.look()
        await at.age(secret_troubles.REPEAT)
        at.now = secret_troubles.RELOAD
        await worker.look()
        worker.met("growth", "a", "api", MISSING)
        await worker.look()
        rows = await at.session.execute("SELECT now() - noted_at < interval '1 minute' FROM secret_troubles")
        assert rows == [(True,)]


async def test_notes_wait_for_the_database_and_are_bounded(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_troubles, "MOST", 3)
    async with feed(database, "a") as at, Session("host=127.0.0.1 port=1", "nowhere") as nowhere:
        worker = at.process()
        store, worker._store = worker._store, PostgresTroubleStore(nowhere, "worker")
        for number in range(10):
            worker.met("growth", "a", f"s-{number}", MISSING)
        worker._loaded = 0.0
        with pytest.raises(Exception, match="PostgreSQL is not available"):
            await worker.look()
        worker.met("growth", "a", "s-0", FORBIDDEN)
        worker._store = store
        await worker.look()
        assert await at.troubles() == {"a": ["SecretForbidden", "SecretMissing", "SecretMissing"]}


async def test_what_cannot_be_stored_is_dropped(database: str) -> None:
    async with feed(database, "a") as at:
        worker = at.process()
        worker.met("growth", "a", "api", SecretError("SecretKeyMissing", "no key \x00"))
        await worker.look()
        worker.met("growth", "a", "api", MISSING)
        await worker.look()
        assert await at.troubles() == {"a": ["SecretMissing"]}


async def test_two_processes_write_the_same_rows_at_once(database: str) -> None:
    """In one order, whatever order they were met in."""
    async with feed(database, "a", "b") as at, Session(database, "other") as second:
        store = PostgresTroubleStore(at.session, "worker"), PostgresTroubleStore(second, "worker")
        uses = [secret_troubles.Use("growth", name, f"s-{n}") for name in "ab" for n in range(50)]
        met = dict.fromkeys(uses, secret_troubles.Met("SecretMissing", "m"))
        for _ in range(5):
            await asyncio.gather(store[0].write(met, []), store[1].write(dict(reversed(met.items())), []))
        await store[0].write({}, uses)
        assert await at.troubles() == {}


async def test_a_process_writes_beside_its_work(database: str) -> None:
    async with feed(database, "a") as at:
        async with noting(database, "worker", wanted=True) as notes:
            notes.met("growth", "a", "api", MISSING)
            await eventually(at.troubles)
        async with noting(database, "worker", wanted=False) as notes:
            assert notes is NO_NOTES
