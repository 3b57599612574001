"""What to do about a WorkflowRun, from what is known of it; and the follower's bookkeeping around it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from stepwell.adapters.postgres.run_objects import KnownObject, RunState
from stepwell.domain.errors import UnavailableError
from stepwell_operator.runs import follower
from stepwell_operator.runs.decide import (
    CANCELLED,
    EXPIRED,
    LONGEST,
    SHORTEST,
    UNKNOWN,
    WRITES,
    Decision,
    Do,
    Track,
    decide,
    decide_blindly,
    track_of,
)
from stepwell_operator.runs.follower import Follower
from stepwell_operator.runs.objects import END, RANKS, RunObject, Shown
from stepwell_operator.runs.status import REASONS, Situation
from stepwell_operator.runs.sweep import sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIVE = ("queued", "running", "waiting")


def an_object(uid: str = "u-1", **values: Any) -> RunObject:
    base = RunObject(uid, "growth", f"x-{uid}", "1", 1, NOW, "welcome", {"n": 1}, None, False, False, None, Shown())
    return replace(base, **values)


def track(now: float = 100.0, *, obj: RunObject | None = None, **values: Any) -> Track:
    """Followed for 100 s."""
    found = track_of(obj or an_object(), now - 100.0)
    found.see(obj or an_object())
    for name, value in values.items():
        setattr(found, name, value)
    return found


def do(found: Track, run: str | None = None, *, cancelling: bool = False, started: bool = False) -> Decision:
    state = None if run is None else RunState(run, cancelling)
    return decide(found, state, 100.0, NOW, started=started)


def test_a_new_object_is_started() -> None:
    assert do(track()).do is Do.START


@pytest.mark.parametrize("word", LIVE)
def test_a_run_that_exists_is_shown_never_started_again(word: str) -> None:
    assert do(track(), word).do is Do.SHOW
    assert do(track(rank=RANKS[REASONS[word]]), word).do is Do.LOOK
    assert do(track(since=99.9), word) == Decision(Do.LOOK, SHORTEST), "most runs are over before this is worth a write"


def test_an_end_is_shown_at_once() -> None:
    assert do(track(since=99.99, rank=3, written=3), "succeeded").do is Do.SHOW


def test_a_run_that_retention_removed_is_not_started_again() -> None:
    assert do(track(), started=True).situation is EXPIRED


def test_a_finished_object_is_never_started_again() -> None:
    finished = an_object(shown=Shown(END, NOW, NOW, started=True))
    assert do(track(obj=finished)).do is Do.DROP
    assert do(track(obj=replace(finished, cancel=True))).do is Do.DROP


def test_the_time_after_the_end() -> None:
    ended = Shown(END, NOW, NOW - timedelta(seconds=40), started=True)
    assert do(track(obj=an_object(shown=ended, ttl=60.0))) == Decision(Do.LOOK, 20.0)
    assert do(track(obj=an_object(shown=ended, ttl=40.0))).do is Do.DELETE
    assert do(track(obj=an_object(shown=ended, ttl=40.0, deleting=True))).do is Do.DROP


@pytest.mark.parametrize("way", ["cancel", "deleting"])
def test_unwanted(way: str) -> None:
    unwanted = an_object(**{way: True})
    assert do(track(obj=unwanted), "running").do is Do.CANCEL
    assert do(track(obj=unwanted, rank=3), "running", cancelling=True).do is Do.LOOK
    assert do(track(obj=unwanted), "cancelled").do is Do.SHOW
    assert do(track(obj=unwanted)).situation is CANCELLED
    doubtful = track(obj=unwanted, doubt_until=101.0)
    assert do(doubtful).do is Do.LOOK, "a start whose answer was lost may still be committed"


def test_gone() -> None:
    assert do(track(gone=True), "waiting").do is Do.CANCEL
    assert do(track(gone=True), "running", cancelling=True).do is Do.FORGET
    assert do(track(gone=True), "failed").do is Do.FORGET
    assert do(track(gone=True)).do is Do.FORGET
    assert do(track(gone=True, doubt_until=101.0)).do is Do.LOOK
    only_in_database = Track("u", "growth", "x", "r", None, 0.0)
    assert do(only_in_database, "queued").do is Do.CANCEL


def test_what_hinders_a_start_is_said_once() -> None:
    hindered = track(hindrance="no")
    assert do(hindered).situation == Situation("Queued", "no")
    hindered.rank = RANKS["Queued"]
    assert do(hindered).do is Do.START
    hindered.refused = Situation("InvalidInput", "n")
    assert do(hindered).situation == hindered.refused


def test_looks_become_rarer() -> None:
    pauses = [do(track(rank=3, since=100.0 - age), "waiting").again for age in (0.1, 10.0, 1e6)]
    assert pauses == [SHORTEST, 0.5, LONGEST]


@given(st.lists(st.sampled_from([*LIVE, "restart", "late news", "no database"]), max_size=40), st.booleans())
def test_no_run_is_written_more_often_than_promised(life: list[str], ttl: bool) -> None:
    """Whatever a run goes through, and however often the operator restarts: four writes, its deletion included."""
    shown, writes = Shown(), 0
    obj = an_object(ttl=60.0 if ttl else None)
    found = track(obj=obj)
    for event in life:
        if event == "restart":
            found = track(obj=replace(obj, shown=shown))
        elif event == "late news":
            found.see(obj)
        elif (decide_blindly(found, 1.0, 100.0) if event == "no database" else do(found, event)).do is Do.SHOW:
            writes += 1
            found.written += 1
            found.rank = RANKS[REASONS.get(event, "Queued")]
            shown = Shown(found.rank, NOW, None, started=True)
    assert do(found, "succeeded").do is Do.SHOW
    assert writes + 1 + ttl <= WRITES == 4


# -- the follower ----------------------------------------------------------------------------------------------------------


class Database:
    """Runs by id, and the objects that they were accepted for."""

    def __init__(self) -> None:
        self.runs: dict[str, RunState] = {}
        self.accepted: set[str] = set()
        self.away = False
        self.asked = 0

    async def states(self, ids: Sequence[str]) -> dict[str, RunState]:
        self.asked += 1
        if self.away:
            raise UnavailableError("away")
        return {run_id: self.runs[run_id] for run_id in ids if run_id in self.runs}

    async def started(self, uids: Sequence[str]) -> set[str]:
        return self.accepted & set(uids)


class Doing:
    """Does it to the `Database`, and notes it. ``failing``: so many times it fails first."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.done: Counter[tuple[Do, str]] = Counter()
        self.failing: Counter[Do] = Counter()
        self.pause = 0.0
        self.shown: list[Situation | None] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def act(self, do: Do, tracks: Sequence[Track], decisions: Sequence[Decision]) -> float:
        await self.hold.wait()
        if self.failing[do] > 0:
            self.failing[do] -= 1
            raise UnavailableError("failing")
        for found in tracks:
            self.done[do, found.uid] += 1
            if do is Do.START:
                self.database.runs[found.run_id] = RunState("running", False)
                self.database.accepted.add(found.uid)
            elif do is Do.CANCEL:
                self.database.runs[found.run_id] = RunState("cancelled", False)
        for found, decision in zip(tracks, decisions, strict=True):
            if do is Do.SHOW:
                found.rank = RANKS.get(decision.situation.reason, END) if decision.situation else END
                self.shown.append(decision.situation)
        return self.pause


class Bed:
    def __init__(self) -> None:
        self.database = Database()
        self.doing = Doing(self.database)
        self.follower = Follower(self.database, self.doing)

    async def __aenter__(self) -> Self:
        self.task = asyncio.ensure_future(self.follower.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def ends(self, obj: RunObject) -> None:
        self.database.runs[obj.run_id] = RunState("succeeded", False)


async def test_the_same_news_ten_times_starts_one_run() -> None:
    obj = an_object()
    async with Bed() as bed:
        for _ in range(10):
            bed.follower.observe(obj)
        await eventually(lambda: obj.run_id in bed.database.runs)
        for _ in range(10):
            bed.follower.observe(obj)
        bed.ends(obj)
        await eventually(lambda: not bed.follower.tracks)
    assert bed.doing.done == {(Do.START, "u-1"): 1, (Do.SHOW, "u-1"): 1}


async def test_idle_it_asks_nobody() -> None:
    async with Bed() as bed:
        bed.follower.observe(an_object(shown=Shown(END, NOW, NOW, started=True)))
        assert not bed.follower.tracks
        obj = an_object("u-2")
        bed.follower.observe(obj)
        bed.ends(obj)
        await eventually(lambda: not bed.follower.tracks)
        asked = bed.database.asked
        bed.follower.observe(an_object("u-3", shown=Shown(END, NOW, datetime.now(UTC), started=True), ttl=900.0))
        await eventually(lambda: bed.follower.tracks["u-3"].due)
    assert bed.database.asked == asked


async def test_objects_that_come_together_are_looked_at_together() -> None:
    objects = [an_object(f"u-{number}") for number in range(1_500)]
    async with Bed() as bed:
        for obj in objects:
            bed.follower.observe(obj)
        await eventually(lambda: len(bed.database.runs) == len(objects))
        asked = bed.database.asked
    assert asked <= 10, "1,000 are asked for in one statement"


async def test_a_database_that_is_away_is_waited_for() -> None:
    obj = an_object()
    async with Bed() as bed:
        bed.database.away = True
        bed.follower.observe(obj)
        await eventually(lambda: bed.database.asked)
        bed.database.away = False
        await eventually(lambda: obj.run_id in bed.database.runs)


async def test_without_the_database_a_new_object_says_what_it_waits_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(follower, "AWAY", 60.0)
    obj, ended = an_object(), an_object("u-2", shown=Shown(END, NOW, datetime.now(UTC), started=True), ttl=900.0)
    async with Bed() as bed:
        bed.database.away = True
        bed.follower.observe(obj)
        bed.follower.tracks["u-1"].since -= 10.0
        await eventually(lambda: bed.doing.shown)
        asked = bed.database.asked
        await eventually(lambda: bed.database.asked > asked)  # the look after it; the next one is a minute away
        bed.follower.observe(ended)
        await eventually(lambda: (bed.follower.tracks["u-2"].due or 0.0) > time.monotonic() + 100.0)
        assert [record.message for record in caplog.records] == ["WorkflowRuns wait: away"], "it is said once"
        bed.database.away = False
        bed.follower.observe(obj)
        await eventually(lambda: obj.run_id in bed.database.runs)
        bed.ends(obj)
        await eventually(lambda: "u-1" not in bed.follower.tracks)
    assert bed.doing.shown == [UNKNOWN, None]


def test_without_the_database_only_what_says_nothing_yet_is_shown() -> None:
    assert decide_blindly(track(), 1.0, 100.0) == Decision(Do.SHOW, 1.0, UNKNOWN)
    for found in (track(gone=True), track(rank=RANKS["Queued"]), track(rank=END), track(now=199.9), track(written=3)):
        assert decide_blindly(found, 1.0, 100.0) == Decision(Do.LOOK, 1.0)


async def test_what_fails_is_done_again() -> None:
    obj = an_object()
    async with Bed() as bed:
        bed.doing.failing[Do.START] = 2
        bed.follower.observe(obj)
        await eventually(lambda: bed.doing.done[Do.START, "u-1"])


async def test_an_object_that_is_deleted_while_its_run_starts_is_cancelled() -> None:
    obj = an_object()
    async with Bed() as bed:
        bed.doing.hold.clear()
        bed.follower.observe(obj)
        await eventually(lambda: bed.follower.tracks["u-1"].busy)
        bed.follower.lost(obj)
        bed.doing.hold.set()
        await eventually(lambda: not bed.follower.tracks)
    assert bed.doing.done == {(Do.START, "u-1"): 1, (Do.CANCEL, "u-1"): 1, (Do.FORGET, "u-1"): 1}


async def test_news_that_come_while_an_object_is_acted_on_are_looked_at_at_once() -> None:
    obj = an_object()
    async with Bed() as bed:
        bed.doing.pause = 900.0
        bed.doing.hold.clear()
        bed.follower.observe(obj)
        await eventually(lambda: bed.follower.tracks["u-1"].busy)
        bed.follower.observe(replace(obj, cancel=True, generation=2))
        await eventually(lambda: bed.follower.tracks["u-1"].touched)
        bed.doing.hold.set()
        await eventually(lambda: bed.doing.done[Do.CANCEL, "u-1"])


async def test_old_news_does_not_take_a_cancel_back() -> None:
    obj = an_object()
    async with Bed() as bed:
        bed.database.runs[obj.run_id] = RunState("running", False)
        bed.doing.hold.clear()
        bed.follower.observe(replace(obj, generation=2, cancel=True))
        bed.follower.observe(obj)
        bed.doing.hold.set()
        await eventually(lambda: bed.doing.done[Do.CANCEL, "u-1"])


async def test_the_sweep_finds_what_was_deleted_unheard() -> None:
    there, unheard = an_object("u-1"), an_object("u-2")
    before = KnownObject("u-0", "r-0", "growth", "old")

    class World:
        """The database first, then the cluster: what comes in between is in both."""

        async def known(self, after: str = "") -> list[KnownObject]:
            return [before]

        async def uids(self) -> set[str]:
            bed.follower.observe(an_object("u-3"))
            return {"u-1"}

    async with Bed() as bed:
        bed.database.runs["r-0"] = RunState("waiting", False)
        for obj in (there, unheard):
            bed.follower.observe(obj)
        await eventually(lambda: {there.run_id, unheard.run_id} <= bed.database.runs.keys())
        assert await sweep(World(), World(), bed.follower) == 1
        await eventually(lambda: bed.doing.done[Do.FORGET, "u-2"] and bed.doing.done[Do.FORGET, "u-0"])
        await eventually(lambda: bed.doing.done[Do.START, "u-3"])
    assert bed.database.runs["r-0"].status == bed.database.runs[unheard.run_id].status == "cancelled"
    assert {uid for act, uid in bed.doing.done if act is Do.CANCEL} == {"u-0", "u-2"}
