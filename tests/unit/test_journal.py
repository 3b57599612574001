"""The journal: group commit, its limits, halving, outages, and writers that go on while they are written."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run_virtual, turns, virtual_time

from stepwell.domain.errors import ConflictError, DataRefusedError, UnavailableError
from stepwell.domain.states import StepStatus
from stepwell.engine.journal import MAX_BYTES, MAX_ROWS, Journal
from stepwell.engine.ports import AttemptRecord, FlushEntry, Kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

KEPT = Kept(cancelled=False, wakes=0, ended=False, parked=None)


class Run:
    """A writer with records to give; what was given is told apart by its number."""

    def __init__(self, name: str, journal: Journal | None = None, *, size: int = 0) -> None:
        self.name = name
        self.journal = journal
        self.size = size
        self.pending: list[int] = []
        self.answers: list[Kept | None] = []
        self.refusals: list[str] = []
        self.then: Callable[[], None] = lambda: None

    def say(self, *numbers: int) -> None:
        assert self.journal is not None
        self.pending += numbers
        self.journal.dirty(self)

    def collect(self) -> FlushEntry:
        records = tuple(
            AttemptRecord("s", n, StepStatus.SUCCEEDED, 0, 0, output=b"x" * self.size or None) for n in self.pending
        )
        self.pending.clear()
        return FlushEntry(self.name, 1, records)

    def flushed(self, kept: Kept | None) -> None:
        self.answers.append(kept)
        self.then()

    def refused(self, message: str) -> None:
        self.refusals.append(message)


class Store:
    """Takes flushes; ``faults`` are raised one after the other, ``poison`` names runs that are refused."""

    def __init__(self) -> None:
        self.committed: list[dict[str, list[int]]] = []
        self.tried: list[list[str]] = []
        self.faults: list[Exception | None] = []
        self.poison: set[str] = set()
        self.lost: set[str] = set()
        self.busy = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, entries: Sequence[FlushEntry]) -> dict[str, Kept]:
        self.tried.append([e.run_id for e in entries])
        self.busy.set()
        await self.go_on.wait()
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault
        if self.poison & {e.run_id for e in entries}:
            raise DataRefusedError("no such row")
        self.committed.append({e.run_id: [a.attempt for a in e.attempts] for e in entries})
        return {e.run_id: KEPT for e in entries if e.run_id not in self.lost}


@contextlib.asynccontextmanager
async def writing() -> AsyncIterator[tuple[Journal, Store]]:
    store = Store()
    journal = Journal(store)
    task = asyncio.ensure_future(journal.run())
    try:
        yield journal, store
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@virtual_time
async def test_what_gathers_during_a_flush_is_written_together_by_the_next() -> None:
    async with writing() as (journal, store):
        store.go_on.clear()
        runs = [Run(f"r{n}", journal) for n in range(5)]
        runs[0].say(1)
        await store.busy.wait()
        for run in runs[1:]:
            run.say(1)
        runs[1].say(2)
        assert journal.backlog == 4
        store.go_on.set()
        await journal.drained()
        assert store.committed == [{"r0": [1]}, {"r1": [1, 2], "r2": [1], "r3": [1], "r4": [1]}]
        assert (journal.flushes, journal.entries) == (2, 5)


@virtual_time
async def test_an_idle_journal_commits_at_once_and_an_empty_one_never() -> None:
    async with writing() as (journal, store):
        await asyncio.sleep(100)
        assert store.tried == []
        Run("r", journal).say(1)
        await turns(5)
        assert store.committed == [{"r": [1]}]


@virtual_time
async def test_answers_come_only_after_the_commit() -> None:
    async with writing() as (journal, store):
        store.go_on.clear()
        run = Run("r", journal)
        run.say(1)
        await store.busy.wait()
        await turns()
        assert run.answers == []
        store.go_on.set()
        await journal.drained()
        assert run.answers == [KEPT]


@virtual_time
async def test_a_run_that_the_store_did_not_keep_is_told_so() -> None:
    async with writing() as (journal, store):
        store.lost.add("r1")
        runs = [Run(f"r{n}", journal) for n in range(3)]
        for run in runs:
            run.say(1)
        await journal.drained()
        assert [run.answers for run in runs] == [[KEPT], [None], [KEPT]]


@virtual_time
async def test_a_flush_holds_no_more_rows_than_its_limit() -> None:
    async with writing() as (journal, store):
        for n in range(MAX_ROWS):
            Run(f"r{n}", journal).say(1)
        await journal.drained()
        assert [len(flush) for flush in store.tried] == [MAX_ROWS // 2, MAX_ROWS // 2]


@virtual_time
async def test_a_flush_holds_no_more_bytes_than_its_limit_and_one_run_beyond_it_goes_alone() -> None:
    async with writing() as (journal, store):
        for n in range(8):
            Run(f"r{n}", journal, size=MAX_BYTES // 4).say(1)
        Run("huge", journal, size=2 * MAX_BYTES).say(1)
        Run("last", journal).say(1)
        await journal.drained()
        assert store.tried == [["r0", "r1", "r2", "r3"], ["r4", "r5", "r6", "r7"], ["huge"], ["last"]]


@virtual_time
async def test_halving_isolates_every_poisoned_run_and_spares_the_others() -> None:
    async with writing() as (journal, store):
        store.poison = {"r5", "r6", "r11"}
        runs = [Run(f"r{n}", journal) for n in range(16)]
        for run in runs:
            run.say(1)
        await journal.drained()
        assert {run.name for run in runs if run.refusals} == store.poison
        assert {name for flush in store.committed for name in flush} == {r.name for r in runs} - store.poison
        assert all(run.answers == [KEPT] for run in runs if run.name not in store.poison)
        assert all(run.refusals in ([], ["no such row"]) for run in runs)
        assert len(store.tried) <= 3 * 2 * 5


@pytest.mark.parametrize("error", [UnavailableError("down"), ConflictError("deadlock")])
@virtual_time
async def test_an_unanswered_flush_is_sent_again_as_it_was_before_anything_else(error: Exception) -> None:
    async with writing() as (journal, store):
        store.faults = [error] * 3
        store.go_on.clear()
        first, second = Run("first", journal), Run("second", journal)
        first.say(1)
        await store.busy.wait()
        first.say(2)
        second.say(1)
        store.go_on.set()
        await journal.drained()
        assert store.tried == [["first"]] * 4 + [["first", "second"]]
        assert store.committed == [{"first": [1]}, {"first": [2], "second": [1]}]
        assert first.answers == [KEPT, KEPT]


@virtual_time
async def test_a_refusal_after_an_outage_is_still_isolated() -> None:
    async with writing() as (journal, store):
        store.faults = [UnavailableError("down"), None, UnavailableError("down")]
        store.poison = {"bad"}
        bad, good = Run("bad", journal), Run("good", journal)
        bad.say(1)
        good.say(1)
        await journal.drained()
        assert (bad.refusals, good.answers) == (["no such row"], [KEPT])


@virtual_time
async def test_what_is_said_during_ones_own_flush_is_flushed_once_more_and_alone() -> None:
    async with writing() as (journal, store):
        store.go_on.clear()
        run = Run("r", journal)
        run.say(1)
        await store.busy.wait()
        run.say(2)
        run.say(3)
        store.go_on.set()
        await journal.drained()
        assert store.committed == [{"r": [1]}, {"r": [2, 3]}]
        assert len(run.answers) == 2


@virtual_time
async def test_a_run_that_goes_on_at_its_answer_is_in_the_next_flush() -> None:
    async with writing() as (journal, store):
        run = Run("r", journal)
        run.then = lambda: run.say(len(run.answers) + 1) if len(run.answers) < 3 else None
        run.say(1)
        await journal.drained()
        assert store.committed == [{"r": [1]}, {"r": [2]}, {"r": [3]}]


@virtual_time
async def test_what_is_forgotten_is_not_written() -> None:
    async with writing() as (journal, store):
        store.go_on.clear()
        Run("other", journal).say(1)
        await store.busy.wait()
        run = Run("r", journal)
        run.say(1)
        journal.forget(run)
        journal.forget(run)
        store.go_on.set()
        await journal.drained()
        assert store.tried == [["other"]]
        assert run.answers == []


@virtual_time
async def test_forgetting_the_only_writer_leaves_an_idle_journal() -> None:
    async with writing() as (journal, store):
        run = Run("r", journal)
        run.say(1)
        journal.forget(run)
        await journal.drained()
        assert store.tried == []
        run.say(2)
        await journal.drained()
        assert store.committed == [{"r": [1, 2]}]


@virtual_time
async def test_a_writers_defect_keeps_nobody_from_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    def defect() -> None:
        raise LookupError("a defect")

    async with writing() as (journal, _):
        bad, good = Run("bad", journal), Run("good", journal)
        bad.then = defect
        bad.say(1)
        good.say(1)
        await journal.drained()
        assert good.answers == [KEPT]
        assert "run bad could not take its answer" in caplog.text


@given(
    st.lists(
        st.tuples(st.sampled_from(["say", "say", "say", "down", "turn", "hold", "go on"]), st.integers(0, 5)),
        max_size=60,
    ),
    st.sets(st.integers(0, 5), max_size=2),
)
@settings(max_examples=100, deadline=None)
def test_everything_said_is_committed_once_and_in_order(moves: list[tuple[str, int]], poison: set[int]) -> None:
    async def play() -> None:
        async with writing() as (journal, store):
            store.poison = {f"r{n}" for n in poison}
            runs = [Run(f"r{n}", journal) for n in range(6)]
            said: Counter[str] = Counter()
            for move, n in moves:
                if move == "say":
                    said[f"r{n}"] += 1
                    runs[n].say(said[f"r{n}"])
                elif move == "down":
                    store.faults.append(UnavailableError("down"))
                elif move == "turn":
                    await turns(n)
                else:
                    store.go_on.clear() if move == "hold" else store.go_on.set()
            store.go_on.set()
            await journal.drained()
            for n, run in enumerate(runs):
                written = [number for flush in store.committed for number in flush.get(run.name, [])]
                assert written == ([] if n in poison else list(range(1, said[run.name] + 1)))
                assert bool(run.refusals) == (n in poison and said[run.name] > 0)

    run_virtual(play())
