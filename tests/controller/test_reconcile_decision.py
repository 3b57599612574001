"""What a Workflow's status is to be, when it is written, and which Events that is worth: pure, without any server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from stepwell.actions.registry import default_actions
from stepwell.adapters.postgres.resource_store import (
    GoneResource,
    NewResource,
    ResourceName,
    RunGroup,
    RunPage,
    SyncedResource,
)
from stepwell.domain.errors import DataRefusedError, Problem, UnavailableError
from stepwell.domain.ids import uuid7
from stepwell.domain.secrets import Trouble
from stepwell.metrics.operator import OperatorMetrics
from stepwell_operator.workflows import refresh as refreshing
from stepwell_operator.workflows import syncer as syncing
from stepwell_operator.workflows.cluster import Listed
from stepwell_operator.workflows.counting import Counting
from stepwell_operator.workflows.decide import (
    Facts,
    Invalid,
    Observed,
    Outcome,
    Synced,
    Unavailable,
    announcements,
    decide,
)
from stepwell_operator.workflows.entries import Entries
from stepwell_operator.workflows.refresh import Pace, Refresh
from stepwell_operator.workflows.resource import Resource, TriggerName
from stepwell_operator.workflows.showing import Showing
from stepwell_operator.workflows.sweep import Sweep
from stepwell_operator.workflows.syncer import Syncer
from stepwell_operator.workflows.tally import Ledger, RunCounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stepwell_operator.events import Subject
    from stepwell_operator.workflows.decide import Status

NAME = ResourceName("growth", "welcome")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
BASE = "https://hooks.example.com/"
GOOD = Synced(7, (TriggerName("signup", webhook=True), TriggerName("nightly", webhook=False)), suspended=False)
BAD = Invalid((Problem("spec.steps[0].if", "no such step"),))
STANDING = replace(BAD, standing=7)
ALL = Facts(RunCounts(1, 2, 3), {"nightly": LATER}, ())


def status(outcome: Outcome, before: Status | None = None, facts: Facts = ALL, now: datetime = NOW) -> Status:
    return decide(Observed(NAME, 3, before or {}, outcome, facts), BASE, now)


def condition(found: Status, kind: str) -> dict[str, Any]:
    return next(each for each in found["conditions"] if each["type"] == kind)


def test_a_synced_one_says_everything() -> None:
    assert status(GOOD) == {
        "observedGeneration": 3,
        "conditions": [
            {
                "type": kind,
                "status": value,
                "observedGeneration": 3,
                "lastTransitionTime": "2026-11-22T12:00:00Z",
                "reason": reason,
                "message": message,
            }
            for kind, value, reason, message in (
                ("Ready", "True", "Synced", "revision 7 is active"),
                ("SecretsAvailable", "True", "Available", "no worker and no gateway was refused a secret"),
                ("Suspended", "False", "NotSuspended", "triggers start runs"),
            )
        ],
        "revision": 7,
        "triggers": [
            {"name": "signup", "url": "https://hooks.example.com/hooks/growth/welcome/signup"},
            {"name": "nightly", "nextRunTime": "2026-11-22T13:00:00Z"},
        ],
        "runs": {"active": 1, "succeeded": 2, "failed": 3},
    }


@given(
    outcome=st.sampled_from(
        [GOOD, replace(GOOD, suspended=True), replace(GOOD, triggers=()), BAD, STANDING, Unavailable()]
    ),
    then=st.sampled_from([GOOD, replace(GOOD, revision=8), BAD, STANDING, Unavailable()]),
    facts=st.sampled_from([ALL, Facts(), Facts(RunCounts(), {}, (Trouble("SecretMissing", "no a"),))]),
)
def test_deciding_twice_changes_nothing(outcome: Outcome, then: Outcome, facts: Facts) -> None:
    before = status(then, facts=facts)
    once = status(outcome, before, facts, LATER)
    assert status(outcome, once, facts, LATER + timedelta(days=1)) == once
    assert status(outcome, once, Facts(), LATER + timedelta(days=1)) == once, "what is not known now stays"
    assert list(announcements(once, once)) == []


def test_an_invalid_spec_keeps_what_goes_on() -> None:
    before = status(GOOD)
    found = status(STANDING, before, now=LATER)
    assert {key: found[key] for key in ("revision", "triggers", "runs")} == {
        key: before[key] for key in ("revision", "triggers", "runs")
    }
    ready = condition(found, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
    assert ready["message"] == "spec.steps[0].if: no such step; revision 7 goes on"
    assert ready["lastTransitionTime"] == "2026-11-22T13:00:00Z"
    assert condition(found, "Suspended") == condition(before, "Suspended")
    ticked = replace(ALL, ticks={"nightly": LATER + timedelta(days=1)})
    assert status(STANDING, before, ticked)["triggers"] == [
        before["triggers"][0],
        {"name": "nightly", "nextRunTime": "2026-11-23T13:00:00Z"},
    ], "its schedule goes on"


def test_one_that_was_never_good_has_no_revision() -> None:
    of_the_one_before = status(GOOD)  # written late, to an object that was made anew under the name
    for before in ({}, of_the_one_before):
        found = status(BAD, before, facts=Facts())
        assert found.keys() - {"runs"} == {"observedGeneration", "conditions"}
        assert condition(found, "Ready")["message"] == "spec.steps[0].if: no such step"
        assert [each["type"] for each in found["conditions"]] == ["Ready", "SecretsAvailable"]


def test_a_long_list_of_problems_is_cut() -> None:
    many = Invalid(tuple(Problem(f"spec.steps[{index}].if", "x" * 200) for index in range(200)))
    assert len(condition(status(many), "Ready")["message"]) <= 1_000


def test_the_time_of_a_condition_is_of_its_status_not_of_its_reason() -> None:
    one = status(BAD)
    other = status(Unavailable(), one, now=LATER)
    assert condition(other, "Ready")["reason"] == "DatabaseUnavailable"
    assert condition(other, "Ready")["lastTransitionTime"] == "2026-11-22T12:00:00Z"


def test_a_suspended_one_has_no_next_run() -> None:
    found = status(replace(GOOD, suspended=True), status(GOOD))
    assert found["triggers"][1] == {"name": "nightly"}
    assert condition(found, "Suspended")["status"] == "True"


def test_without_an_address_the_url_is_a_path() -> None:
    found = decide(Observed(NAME, 1, {}, GOOD), "", NOW)
    assert found["triggers"][0]["url"] == "/hooks/growth/welcome/signup"


def test_the_latest_run_is_shown_even_when_its_history_is_gone() -> None:
    with_last = status(
        GOOD, facts=replace(ALL, runs=RunCounts(0, 1, 0, (uuid7(1_700_000_000_000, bytes(10)), "timed_out")))
    )
    assert with_last["runs"]["lastRunStatus"] == "TimedOut"
    assert with_last["runs"]["lastRunTime"] == "2023-11-14T22:13:20Z"
    found = status(GOOD, with_last, replace(ALL, runs=RunCounts()))
    assert found["runs"] == {**with_last["runs"], "succeeded": 0}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, GOOD, [("Synced", False)]),
        (GOOD, replace(GOOD, revision=8), [("Synced", False)]),
        (GOOD, BAD, [("InvalidSpec", True)]),
        (BAD, GOOD, [("Synced", False)]),
        (GOOD, Unavailable(), [("DatabaseUnavailable", True)]),
        (GOOD, replace(GOOD, suspended=True), [("Suspended", False)]),
        (replace(GOOD, suspended=True), GOOD, [("Resumed", False)]),
    ],
)
def test_events_have_specific_reasons(before: Outcome | None, after: Outcome, expected: list[tuple[str, bool]]) -> None:
    old = {} if before is None else status(before)
    assert [(each.reason, each.warning) for each in announcements(old, status(after, old))] == expected


def test_trouble_with_a_secret_is_a_condition_and_an_event() -> None:
    trouble = replace(ALL, troubles=(Trouble("SecretMissing", "there is no Secret api"),))
    found = status(GOOD, status(GOOD), trouble)
    assert (condition(found, "SecretsAvailable")["status"], condition(found, "SecretsAvailable")["reason"]) == (
        "False",
        "SecretMissing",
    )
    assert [each.reason for each in announcements(status(GOOD), found)] == ["SecretMissing"]
    assert condition(status(GOOD, found), "SecretsAvailable")["status"] == "True"


# -- the ledger --------------------------------------------------------------------------------------------------------


class History:
    """Runs in memory, read as the database is."""

    def __init__(self) -> None:
        self.runs: dict[str, tuple[int, str, int | None]] = {}
        self.read = 0

    async def count(self, after: str, until: str, page: int) -> RunPage:
        ids = sorted(run_id for run_id in self.runs if after < run_id <= until)[:page]
        self.read += len(ids)
        return RunPage([self.group(run_id) for run_id in ids], len(ids), ids[-1] if ids else None)

    async def recount(self, ids: Sequence[str]) -> list[RunGroup]:
        self.read += len(ids)
        return [self.group(run_id) for run_id in ids if run_id in self.runs]

    def group(self, run_id: str) -> RunGroup:
        workflow, status, until = self.runs[run_id]
        return RunGroup(workflow, status, until, 1, run_id)


STEP = st.tuples(st.sampled_from(["start", "end", "lose", "look"]), st.integers(0, 30), st.booleans())


@given(st.lists(STEP, max_size=60))
def test_the_ledger_counts_what_a_whole_look_would(steps: list[tuple[str, int, bool]]) -> None:
    history, now = History(), 1_700_000_000.0
    counting = Counting(history)

    async def act() -> None:
        nonlocal now
        for number, (what, which, flag) in enumerate(steps):
            ids = sorted(history.runs)
            if what == "start":
                run_id = uuid7(int(now * 1000), number.to_bytes(10, "big"))
                history.runs[run_id] = (which % 2, "queued", None)
            elif ids and what == "end" and history.runs[ids[which % len(ids)]][2] is None:
                workflow = history.runs[ids[which % len(ids)]][0]
                history.runs[ids[which % len(ids)]] = (workflow, "succeeded" if flag else "failed", int(now) + 500)
            elif ids and what == "lose":
                gone = ids[which % len(ids)]
                if (history.runs[gone][2] or now) < now:
                    del history.runs[gone]
            elif what == "look":
                await counting.look(now)
            now += which * 3
        await counting.look(now)

    asyncio.run(act())
    for workflow in (0, 1):
        found = counting.counts(workflow, now)
        mine = [(status, until) for owner, status, until in history.runs.values() if owner == workflow]
        assert found is not None
        assert found.active == sum(until is None for _, until in mine)
        kept = [status for status, until in mine if until is not None and until > now]
        assert (found.succeeded, found.failed) == (kept.count("succeeded"), kept.count("failed"))


def test_an_ended_run_is_read_once() -> None:
    history, now = History(), 1_700_000_000.0
    for number in range(1_000):
        history.runs[uuid7(int((now - 3_600) * 1000) + number, bytes(10))] = (1, "succeeded", int(now) + 9_000)
    counting = Counting(history)

    async def act() -> None:
        for second in range(10):
            await counting.look(now + second)

    asyncio.run(act())
    assert history.read == 1_000
    assert counting.counts(1, now) == RunCounts(0, 1_000, 0, (max(history.runs), "succeeded"))


def test_what_is_not_retained_any_more_is_not_counted() -> None:
    ledger = Ledger()
    ledger.settle([RunGroup(1, "succeeded", 100, 5, "a"), RunGroup(1, "cancelled", 200, 2, "b")])
    assert ledger.counts(1, 99) == RunCounts(0, 5, 2, ("b", "cancelled"))
    assert ledger.counts(1, 100) == RunCounts(0, 0, 2, ("b", "cancelled"))
    assert ledger.counts(1, 200) == RunCounts(0, 0, 0, ("b", "cancelled"))


# -- syncing -----------------------------------------------------------------------------------------------------------

SPEC = {"steps": [{"name": "a", "transform": {"value": 1}}]}


class Database:
    """What syncing asks of PostgreSQL. ``away``: it does not answer; ``poison``: names that it refuses."""

    def __init__(self) -> None:
        self.away = False
        self.poison: set[str] = set()
        self.batches: list[list[str]] = []
        self.gone: list[str] = []

    async def known(self) -> dict[ResourceName, SyncedResource]:
        self._answer()
        return {}

    async def sync(self, resources: Sequence[NewResource]) -> dict[ResourceName, SyncedResource]:
        self._answer()
        names = [item.revision.name for item in resources]
        if self.poison & set(names):
            raise DataRefusedError("no")
        self.batches.append(names)
        return {
            ResourceName(item.revision.namespace, item.revision.name): SyncedResource(item.uid, item.digest, 1, 1)
            for item in resources
        }

    async def withdraw(self, resources: Sequence[GoneResource]) -> list[ResourceName]:
        self._answer()
        self.gone += [item.uid for item in resources]
        return []

    def _answer(self) -> None:
        if self.away:
            raise UnavailableError("away")


def resource(name: str, spec: Any = SPEC, uid: str = "", generation: int = 1) -> Resource:
    return Resource(ResourceName("default", name), uid or name, generation, generation, spec, {}, cancels=False)


class Desk:
    """A syncer that runs, with what it told."""

    def __init__(self) -> None:
        self.database = Database()
        self.entries = Entries()
        self.syncer = Syncer(
            self.database, self.entries, default_actions(), OperatorMetrics(),
            on_outcome=lambda entry: None, on_gone=lambda: None,
        )  # fmt: skip

    def outcome(self, name: str) -> Outcome | None:
        entry = self.entries.get(ResourceName("default", name))
        return None if entry is None else entry.outcome

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self.syncer.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_many_at_once_go_in_few_batches() -> None:
    async with Desk() as desk:
        await asyncio.gather(*(desk.syncer.observe(resource(f"w{number}")) for number in range(1_200)))
    assert [len(batch) for batch in desk.database.batches] == [500, 500, 200]


async def test_what_the_database_refuses_stops_no_other() -> None:
    async with Desk() as desk:
        desk.database.poison = {"w3"}
        await asyncio.gather(*(desk.syncer.observe(resource(f"w{number}")) for number in range(10)))
        assert isinstance(desk.outcome("w3"), Invalid)
        assert all(isinstance(desk.outcome(f"w{number}"), Synced) for number in range(10) if number != 3)


async def test_a_defect_that_one_brings_to_light_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    real = syncing.checked

    def checked(found: Resource, actions: Any) -> Any:
        if found.name.name == "w1":
            raise RecursionError
        return real(found, actions)

    monkeypatch.setattr(syncing, "checked", checked)
    async with Desk() as desk:
        await asyncio.gather(*(desk.syncer.observe(resource(f"w{number}")) for number in range(3)))
        assert isinstance(desk.outcome("w1"), Invalid)
        assert isinstance(desk.outcome("w2"), Synced)


async def test_an_invalid_spec_goes_on_as_the_database_has_it() -> None:
    """Also after a restart: its runs are counted, and what another object of its name left is not its own."""
    broken = {"steps": [{"name": "a", "transform": {"value": "{{ nothing. }}"}}]}
    async with Desk() as desk:

        async def known() -> dict[ResourceName, SyncedResource]:
            return {ResourceName("default", name): SyncedResource(name, b"", 5, 7) for name in ("edited", "remade")}

        desk.database.known = known  # type: ignore[method-assign]
        for resourced in (resource("edited", broken, generation=2), resource("remade", broken, uid="other")):
            await desk.syncer.observe(resourced)
        edited, remade = (desk.entries.get(ResourceName("default", name)) for name in ("edited", "remade"))
        assert edited is not None
        assert remade is not None
        assert isinstance(edited.outcome, Invalid)
        assert isinstance(remade.outcome, Invalid)
        assert (edited.outcome.standing, edited.workflow_id) == (7, 5)
        assert (remade.outcome.standing, remade.workflow_id) == (None, None)


async def test_an_absent_database_is_said_and_waited_for() -> None:
    async with Desk() as desk:
        desk.database.away = True
        await desk.syncer.observe(resource("w"))
        assert isinstance(desk.outcome("w"), Unavailable)
        assert desk.entries.unsynced() == 1
        desk.database.away = False
        await eventually(lambda: isinstance(desk.outcome("w"), Synced))
        assert desk.entries.unsynced() == 0


async def test_the_newest_state_is_synced_and_a_deletion_forgets_it() -> None:
    async with Desk() as desk:
        desk.database.away = True
        await desk.syncer.observe(resource("w"))
        desk.syncer.observe(resource("w", {"steps": []}, generation=2))
        await desk.syncer.observe(resource("x"))
        desk.syncer.gone(GoneResource(ResourceName("default", "x"), "x", cancels=False))
        desk.database.away = False
        await eventually(lambda: isinstance(desk.outcome("w"), Invalid))
        assert desk.outcome("x") is None
        assert (desk.database.gone, desk.database.batches) == (["x"], [])


async def test_a_deletion_of_the_one_before_leaves_the_new_one() -> None:
    async with Desk() as desk:
        desk.syncer.observe(resource("w", uid="new"))
        desk.syncer.gone(GoneResource(ResourceName("default", "w"), "old", cancels=False))
        await eventually(lambda: isinstance(desk.outcome("w"), Synced))


# -- sweeping ------------------------------------------------------------------------------------------------------------


class Cluster:
    """What a sweep asks of the API server."""

    def __init__(self, *resources: Resource) -> None:
        self.objects = {each.name: each for each in resources}
        self.read_names: list[str] = []

    async def listed(self) -> list[Listed]:
        return [Listed(each.name, each.uid, each.generation) for each in self.objects.values()]

    async def read(self, name: ResourceName) -> Resource | None:
        self.read_names.append(name.name)
        return self.objects.get(name)


async def test_a_sweep_makes_up_for_what_was_missed_either_way() -> None:
    async with Desk() as desk:
        for name in ("same", "edited", "remade", "gone"):
            await desk.syncer.observe(resource(name))
        stood = {each.name: SyncedResource(each.uid, each.digest, 1, 1) for each in desk.entries.all()}
        stood[ResourceName("default", "forgotten")] = SyncedResource("forgotten", b"", 1, 1)
        lost, edited = ResourceName("default", "same"), ResourceName("default", "edited")
        cluster = Cluster(
            resource("same"), resource("edited", generation=2), resource("remade", uid="other"), resource("new")
        )  # fmt: skip

        async def known() -> dict[ResourceName, SyncedResource]:
            return dict(stood)

        desk.database.known = known  # type: ignore[method-assign]
        sweep = Sweep(desk.database, cluster, desk.entries, desk.syncer, OperatorMetrics())
        await sweep.run()
        assert sorted(cluster.read_names) == ["edited", "new", "remade"]
        await eventually(lambda: sorted(desk.database.gone) == ["forgotten", "gone", "remade"])
        await eventually(lambda: isinstance(desk.outcome("new"), Synced))
        entry = desk.entries.get(ResourceName("default", "remade"))
        assert entry is not None
        assert entry.uid == "other"
        cluster.read_names.clear()
        digest = resource("any").digest
        stood |= {
            ResourceName("default", name): SyncedResource(uid, digest, 1, 1)
            for name, uid in (("remade", "other"), ("new", "new"))
        }
        await sweep.run()
        assert cluster.read_names == []
        del stood[lost]  # the database was put back to an earlier state
        stood[edited] = stood[edited]._replace(digest=b"of an older spec")
        await sweep.run()
        assert sorted(cluster.read_names) == ["edited", "same"]


# -- the pace of writes --------------------------------------------------------------------------------------------------


class Board:
    """An API server that only shows."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    async def show(self, name: ResourceName, status: Status) -> tuple[int, Status]:
        self.shown.append(name.name)
        return len(self.shown), status

    def post(self, subject: Subject, reason: str, message: str, *, warning: bool = False) -> None:
        pass


class Nothing:
    async def next_ticks(self) -> Mapping[int, Mapping[str, datetime]]:
        return {}

    async def troubles(self) -> Mapping[int, Sequence[Trouble]]:
        return {}


def test_the_pace_is_as_promised() -> None:
    assert (Pace().per_object, Pace().rate) == (60.0, 10.0)


async def test_runs_are_written_rarely_and_never_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    history, board, entries = History(), Board(), Entries()
    showing = Showing(board, entries, board, OperatorMetrics(), BASE)
    nothing = Nothing()
    pace = Pace(look=10.0, per_object=60.0, rate=1_000.0)
    refresh = Refresh(entries, Counting(history), nothing, nothing, showing, pace)
    clock = [1_700_000_000.0]
    monkeypatch.setattr(refreshing.time, "time", lambda: clock[0])
    monkeypatch.setattr(refreshing.time, "monotonic", lambda: clock[0])
    for number in range(1, 21):
        entry = entries.take(resource(f"w{number}"), 0.0)
        entry.outcome, entry.workflow_id = Synced(1, (), suspended=False), number
    writer = asyncio.ensure_future(showing.run())

    async def written(expected: int) -> None:
        await refresh.look()
        await eventually(lambda: len(board.shown) >= expected)
        assert len(board.shown) == expected
        board.shown.clear()

    await written(20)  # the first status of each
    await written(0)
    history.runs[uuid7(int(clock[0] * 1000), bytes(10))] = (3, "queued", None)
    clock[0] += 61
    await written(1)
    history.runs[uuid7(int(clock[0] * 1000), bytes(10))] = (3, "queued", None)
    clock[0] += 30
    await written(0)  # within the minute
    clock[0] += 31
    await written(1)
    for number in range(1, 21):
        history.runs[uuid7(int(clock[0] * 1000), number.to_bytes(10, "big"))] = (number, "queued", None)
    clock[0] += 61
    refresh._pace = Pace(look=0.005, per_object=60.0, rate=1_000.0)
    await written(5)  # no more than the rate in the time between two looks
    await written(5)
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
