"""Whole runs at random: any graph, any outcomes, and crashes, stalls, drains, cancels and outages at any moment.

The real decide, execution, journal and dispatcher run over a store in memory; nothing is waited for. What must come of
a run is told by a reference interpreter that knows neither time nor tasks (tests/engine_oracle.py).
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import orjson
from engine_life import Life, World, actions_of, stored, until
from engine_oracle import RUN_INPUT, Attempt, Expected, Planned, Result, expect, final
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory_store import Database, MemoryQueue, Row
from virtual_time import EPOCH, VirtualClock, run_virtual

from stepwell.domain import handlers
from stepwell.domain.retry import StepFailure
from stepwell.engine import journal
from stepwell.engine.ports import AttemptRecord, ReadyRun
from stepwell.engine.work import FRESH

if TYPE_CHECKING:
    from stepwell.domain.action import Call

SLOWEST = 0.5  # seconds between a statement's effect and its answer
PROMPT = 15.0  # seconds within which a cancel or the run's timeout has ended it, outages included
EVENTS = ["crash", "stall", "drain", "cancel", "wake", "flush lost", "flush refused", "claim lost"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A workflow, what its effects do, and what happens to it when (seconds)."""

    steps: list[Planned]
    timeout: int | None = None
    events: list[tuple[float, str]] = field(default_factory=list)
    seed: int = 0
    on_failure: list[Planned] = field(default_factory=list)
    finally_: list[Planned] = field(default_factory=list)
    budget: int = 300

    @property
    def handlers(self) -> list[Planned]:
        return [*self.on_failure, *self.finally_]

    @property
    def all(self) -> list[Planned]:
        return [*self.steps, *self.handlers]

    def spec(self) -> dict[str, Any]:
        lists = {"steps": self.steps, "onFailure": self.on_failure, "finally": self.finally_}
        spec: dict[str, Any] = {
            word: [step.manifest(handler=word != "steps") for step in steps] for word, steps in lists.items() if steps
        }
        return spec if self.timeout is None else {**spec, "timeout": f"{self.timeout}s"}


# -- plans -------------------------------------------------------------------------------------------------------------

attempts = st.builds(
    Attempt,
    st.sampled_from([0.0, 0.0, 0.01, 0.5, 1.9]),
    st.sampled_from(["ok", "ok", "again", "again", "later", "final", "hang"]),
)


@st.composite
def step_lists(draw: st.DrawFn, letter: str = "s", least: int = 1, most: int = 12) -> list[Planned]:
    count = draw(st.integers(least, most))
    order = draw(st.permutations(range(count))) if draw(st.booleans()) else range(count)
    place = {step: place for place, step in enumerate(order)}
    steps = []
    for index in range(count):
        before = [f"{letter}{other}" for other in range(count) if place[other] < place[index]]
        chained = (index == 0 or place[index - 1] < place[index]) and draw(st.booleans())
        needs = (
            None
            if chained
            else tuple(draw(st.lists(st.sampled_from(before), unique=True, max_size=2)))
            if before
            else ()
        )
        steps.append(
            Planned(
                f"{letter}{index}",
                draw(st.sampled_from(["effect", "effect", "effect", "pure", "pure", "fail"])),
                needs,
                condition=draw(st.sampled_from([None, None, None, True, False])),
                goes_on=draw(st.sampled_from([True, True, False])),
                limit=draw(st.integers(0, 3)),
                initial=draw(st.sampled_from([0.001, 0.1, 1.0, 5.0])),
                attempts=tuple(draw(st.lists(attempts, max_size=3))),
                items=draw(st.sampled_from([None, None, None, 0, 1, 2, 5, 12])),
                parallel=draw(st.sampled_from([1, 2, 3, 10])),
            )
        )
    return steps


HANDLERS = {"on_failure": step_lists("f", 0, 3), "finally_": step_lists("z", 0, 3)}
calm = st.builds(Plan, step_lists(), seed=st.integers(0, 9), **HANDLERS)
stormy = st.builds(
    Plan,
    step_lists(),
    timeout=st.sampled_from([None, None, None, 1, 5, 20]),
    events=st.lists(st.tuples(st.sampled_from([0.0, 0.003, 0.2, 0.7, 1.5, 3.0, 4.0, 9.0]), st.sampled_from(EVENTS)), max_size=5),
    seed=st.integers(0, 999),
    **HANDLERS,
    budget=st.sampled_from([300, 300, 300, 4]),
)  # fmt: skip


# -- the stage ---------------------------------------------------------------------------------------------------------


class Drama:
    """Plays one plan and watches every effect that starts."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.planned = {step.name: step for step in plan.all}
        self.random = random.Random(plan.seed)
        self.database = Database(VirtualClock().micros)
        self.database.revisions[1] = stored(plan.spec())
        self.queue = MemoryQueue()
        self.requests: dict[tuple[str, int | None], Any] = {}
        self.in_flight: set[tuple[int, str, int | None]] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.lives: list[Life] = []
        self.problems: list[AssertionError] = []
        self.life = self.begin()

    def begin(self) -> Life:
        world = World(lambda call, body: self.perform(life, call, body))
        life = self.life = Life(self.database, self.queue, actions_of(world), suspects=True)
        life.store.latency = self.latency
        self.lives.append(life)
        life.start()
        return life

    def latency(self, _: str) -> tuple[float, float]:
        if self.plan.seed < 10:
            return 0.0, 0.0
        return self.random.choice([(0.0, 0.0), (0.001, 0.001), (0.1, 0.0), (0.0, 0.1), (0.3, SLOWEST)])

    async def perform(self, life: Life, call: Call, body: Any) -> Any:
        try:
            self.check_start(life, call, body)
        except AssertionError as problem:  # the engine would take it for a defect of the action
            self.problems.append(problem)
        return await self.act(life, call)

    def check_start(self, life: Life, call: Call, body: Any) -> None:
        """Everything that must hold when an effect starts."""
        row = self.database.rows[call.run_id]
        execution = life.dispatcher.active[call.run_id]
        step = execution.loaded.steps[call.step]
        finals = {(a.step, a.item) for a in self.database.attempts() if a.retry_at is None}
        durable = {name for name, item in finals if item < 0}
        place = call.step, -1 if call.item is None else call.item
        side_by_side = sum((worker, name) == (life.worker, call.step) for worker, name, _ in self.in_flight)
        ancestors = {s.name for s in execution.loaded.revision.steps if step.ancestors >> s.index & 1}
        assert (row.status, row.worker, row.fence) == ("running", life.worker, execution.run.fence), "not the owner"
        assert place not in finals, "its result is durable"
        assert call.step not in durable, "the result of the whole step is durable"
        assert (call.item is None) is (self.planned[call.step].items is None)
        assert call.idempotency_key == "/".join(("r1", call.step, *([] if call.item is None else [str(call.item)])))
        assert side_by_side < (1 if call.item is None else self.planned[call.step].parallel), "too many at once"
        assert ancestors <= durable, f"it needs {ancestors - durable}, which is not durable"
        assert execution.results.failed < 0, "the run has failed"
        assert call.attempt <= self.planned[call.step].limit + 1, "too many attempts"
        assert (life.worker, call.step, call.item) not in self.in_flight, "the step runs already"
        assert self.requests.setdefault((call.step, call.item), body) == body, "not the same request"
        assert not life.dispatcher.draining, "the worker drains"
        assert step.part == row.part, "it is not its turn"
        if step.part:
            assert row.outcome is not None
            shown = orjson.loads(row.outcome.error or b"null")
            assert body["error"] == (shown and {"step": None, **shown}), "not the error of the run"
            self.check_seen(body["s0"])
        elif row.cancelled_at is not None:
            late = (self.database.now() - row.cancelled_at) / 1e6
            assert late <= FRESH / 1e6, f"{late} s after the cancel"

    def check_seen(self, shown: dict[str, Any]) -> None:
        """What a handler sees of a step is what is recorded of it."""
        record = self.database.final_record("r1", "s0")
        assert shown["status"] == ("Skipped" if record is None else record.status.word)
        assert shown["output"] == (None if record is None else _output(record, self.database.attempts()))

    async def act(self, life: Life, call: Call) -> Any:
        attempt = self.planned[call.step].attempt(call.attempt, call.item)
        self.in_flight.add((life.worker, call.step, call.item))
        try:
            await asyncio.sleep(1e6 if attempt.result == "hang" else attempt.seconds)
        finally:
            self.in_flight.discard((life.worker, call.step, call.item))
        if attempt.result == "ok":
            told = {} if call.item is None else {"item": 100 + call.item}
            return {"by": call.step, "n": call.attempt, **told}
        raise StepFailure(
            "Broken",
            "it broke",
            final=attempt.result == "final",
            retry_after=8.0 if attempt.result == "later" else None,
        )

    # -- what others do ------------------------------------------------------------------------------------------------

    async def upkeep(self) -> None:
        """What the leader and the heartbeat do, in short."""
        while True:
            row = self.database.rows["r1"]
            self.database.reap()
            if row.status == "waiting":
                assert row.due_at is not None, "it waits for nothing"
                if row.due_at <= self.database.now():
                    self.database.wake("r1")
            if row.status == "queued":
                await self.queue.add([ReadyRun("r1", "default", 0)])
            if row.status == "running" and row.cancelled_at is not None:
                self.life.dispatcher.cancel(["r1"])
            await asyncio.sleep(0.5)

    async def happen(self, event: str) -> None:
        life = self.life
        if event == "crash":
            await life.kill()
            self.begin()
        elif event == "stall":  # frozen past the lease, declared dead, and thawed
            life.trust.given = False
            self.database.alive.discard(life.worker)
            self.begin()
            self.after(6.0, life)
        elif event == "drain":
            self.begin()
            await life.dispatcher.drain(grace=3.0)
            await life.kill()
        elif event == "cancel":
            self.database.cancel("r1")
            self.life.dispatcher.cancel(["r1"] if self.random.random() < 0.5 else [])
        elif event == "wake":
            self.database.wake("r1")
        elif event == "claim lost":
            life.store.breaks("claim", after=self.random.random() < 0.5)
        else:
            life.store.breaks("flush", after=event == "flush lost")

    def after(self, seconds: float, life: Life) -> None:
        async def end() -> None:
            await asyncio.sleep(seconds)
            await life.kill()

        self.tasks.add(asyncio.ensure_future(end()))

    async def play(self) -> Row:
        row = self.database.add("r1", input=orjson.dumps(RUN_INPUT).decode())
        upkeep = asyncio.ensure_future(self.upkeep())
        loop = asyncio.get_running_loop()
        try:
            for at, event in sorted(self.plan.events):
                await asyncio.sleep(max(0.0, at - loop.time()))
                await self.happen(event)
            await until(lambda: row.final or upkeep.done() or any(life.failed() for life in self.lives))
            await until(lambda: not self.life.dispatcher.active, 60.0)
        finally:
            upkeep.cancel()
            for life in self.lives:
                await life.kill()
            await asyncio.gather(*self.tasks)
        assert [life.failed() for life in self.lives] == [None] * len(self.lives)
        assert self.life.dispatcher.journal.backlog == 0
        assert sum(len(life.left) for life in self.lives) <= row.claims
        for problem in self.problems:
            raise problem
        return row


def play(plan: Plan) -> tuple[Row, list[AttemptRecord], Expected]:
    async def playing() -> tuple[Row, list[AttemptRecord]]:
        drama = Drama(plan)
        return await drama.play(), drama.database.attempts()

    rows = 3 if plan.seed % 2 else journal.MAX_ROWS  # of one flush: what is more comes with the following ones
    with patch.object(handlers, "BUDGET", plan.budget * 1_000_000), patch.object(journal, "MAX_ROWS", rows):
        row, records = run_virtual(playing())
    return row, records, expect(plan.steps)


def of(steps: list[Planned], records: list[AttemptRecord]) -> list[AttemptRecord]:
    names = {step.name for step in steps}
    return [record for record in records if record.step in names]


def outcome_of(row: Row) -> tuple[str, int]:
    """How the steps ended, and when."""
    assert row.finished_at is not None
    return (row.status, row.finished_at) if row.outcome is None else (row.outcome.status, row.outcome.finished_at)


# -- what must hold ----------------------------------------------------------------------------------------------------


def check_records(records: list[AttemptRecord], expected: Expected, *, complete: bool) -> None:
    """Every recorded result is the expected one, its input too, and the attempts are numbered without a gap."""
    outputs = {r.step: _output(r, records) for r in records if r.item < 0 and r.status == "succeeded"}
    found = {}
    for record in records:
        result = _expected(record, expected)
        if record.retry_at is None:
            found[record.step, record.item] = record
            assert (record.status, record.attempt) == (result.status, result.attempt)
            assert _output(record, records) == result.output
        assert _input(record, outputs) == result.given
    check_items(found, expected)
    assert not complete or {step for step, item in found if item < 0} == set(expected.results)
    for place in {(r.step, r.item) for r in records}:
        numbers = sorted(r.attempt for r in records if (r.step, r.item) == place)
        assert numbers == list(range(1, len(numbers) + 1))


def check_items(found: dict[tuple[str, int], AttemptRecord], expected: Expected) -> None:
    """A step has a result once all of its items have, or one has failed for good, whose index its error names."""
    for (step, item), record in found.items():
        if item >= 0 or record.items is None:
            continue
        assert record.items == sum(name == step for name, _ in expected.items)
        if record.status == "failed":
            index = orjson.loads(record.error or b"{}")["index"]
            assert found[step, index].status == "failed"
        else:
            assert all((step, index) in found for index in range(record.items))


def _expected(record: AttemptRecord, expected: Expected) -> Result:
    return expected.results[record.step] if record.item < 0 else expected.items[record.step, record.item]


def _output(record: AttemptRecord, records: list[AttemptRecord]) -> Any:
    """An output; of a step with items, put together from theirs."""
    if record.item >= 0 or record.items is None or record.output is not None or record.status != "succeeded":
        return None if record.output is None else orjson.loads(record.output)
    finals = {r.item: r for r in records if r.step == record.step and r.retry_at is None}
    return [orjson.loads(finals[item].output or b"null") for item in range(record.items)]


def _input(record: AttemptRecord, outputs: dict[str, Any]) -> Any:
    if record.input_from is None:
        assert record.input is not None
        return orjson.loads(record.input)
    origin = orjson.loads(record.input_from)
    known = {"$run": RUN_INPUT, **outputs}
    return known[origin] if isinstance(origin, str) else {name: known[source] for name, source in origin.items()}


def check_end(row: Row, records: list[AttemptRecord], expected: Expected, plan: Plan) -> None:
    """How the steps ended. What the handlers make of it is looked at apart."""
    status, ended_at = outcome_of(row)
    end = row.outcome or row.end
    error = orjson.loads((end and end.error) or "{}")
    assert error.get("reason") not in {"InternalError", "RecordRefused"}
    deadline = row.created_at + int((plan.timeout or 1e6) * 1e6)
    if status == "cancelled":
        assert row.cancelled_at is not None
    elif status == "timed_out":
        assert deadline <= ended_at
        assert max((r.started_at for r in of(plan.steps, records)), default=0) <= deadline
    else:
        assert status == expected.status
    if row.cancelled_at is not None and row.cancelled_at <= ended_at:
        assert status != "succeeded"
        assert ended_at - row.cancelled_at <= PROMPT * 1e6
    if status == "timed_out" and not plan.events:
        assert ended_at - deadline <= SLOWEST * 4e6
    if status == "failed":
        assert error["step"] in expected.culprits


def check_handlers(row: Row, records: list[AttemptRecord], plan: Plan, *, calm: bool) -> None:
    """Those run whose turn it is, once; the end of the run is that of its steps, unless `finally` spoils a success."""
    status, ended_at = outcome_of(row)
    found = {r.step: str(r.status) for r in records if r.retry_at is None and r.item < 0}
    assert (row.outcome is None) == (not any(_due(plan, status)) or row.claims == 0)
    assert row.status == (status if row.outcome is None else final(status, plan.finally_, found))
    if row.status == status and row.outcome is not None and status != "succeeded":
        assert row.end is row.outcome, "the first error stays"
    for steps, due in zip((plan.on_failure, plan.finally_), _due(plan, status), strict=True):
        of_list, expected = of(steps, records), expect(steps, handlers=True)
        assert not of_list or (due and row.outcome is not None)
        assert min((r.started_at for r in of_list), default=ended_at) >= ended_at
        complete = calm and due and row.outcome is not None and not expected.culprits
        check_records(of_list, expected, complete=complete)
        if calm and due and row.outcome is not None and expected.culprits:
            assert any(found.get(name) == "failed" for name in expected.culprits)


def _due(plan: Plan, status: str) -> tuple[bool, bool]:
    return bool(plan.on_failure) and status != "succeeded", bool(plan.finally_)


@given(calm)
@settings(max_examples=150, deadline=None)
def test_an_undisturbed_run_ends_as_the_reference_says(plan: Plan) -> None:
    row, records, expected = play(plan)
    check_end(row, records, expected, plan)
    check_records(of(plan.steps, records), expected, complete=outcome_of(row)[0] == "succeeded")
    check_handlers(row, records, plan, calm=True)


CHAIN = [Planned(f"s{n}", "effect", None, limit=1, attempts=(Attempt(1.9, "again"),)) for n in range(4)]
LAST = [Planned(f"z{n}", "effect", None, limit=2, attempts=(Attempt(0.5, "later"),)) for n in range(3)]
EACH2 = Planned("f0", "effect", None, limit=1, attempts=(Attempt(0.5, "again"),), items=5, parallel=2)
SLIP, SLIP2 = Planned("s0", "fail", None), Planned("f0", "effect", None, attempts=(Attempt(0.5, "final"),))


EACH = Planned("s0", "effect", None, limit=2, attempts=(Attempt(0.5, "later"),), items=12, parallel=3)
BROKEN = Planned("s0", "effect", None, attempts=(Attempt(0.5, "final"),), items=5, parallel=3)


@given(stormy)
@settings(max_examples=300, deadline=None)
@example(Plan([EACH, *CHAIN[1:]], events=[(at, "crash") for at in (0.2, 0.7, 9.0, 16.0)], seed=99))
@example(Plan([EACH], events=[(0.7, "stall"), (3.0, "drain"), (9.0, "flush lost")], seed=99, finally_=LAST))
@example(Plan([BROKEN], events=[(0.7, "crash")], seed=12, on_failure=[EACH2]))
@example(Plan(CHAIN, events=[(at, "crash") for at in (0.0, 1.9, 4.5, 6.0)], seed=99))
@example(Plan(CHAIN, events=[(1.0, "stall"), (3.0, "drain"), (9.0, "cancel")], seed=99))
@example(Plan(CHAIN, events=[(9.5, "crash"), (11.0, "crash"), (13.0, "stall")], seed=99, finally_=LAST))
@example(
    Plan([SLIP], events=[(0.7, "crash"), (1.5, "drain"), (3.0, "cancel")], seed=99, on_failure=LAST, finally_=[SLIP2])
)
@example(Plan([SLIP], seed=99, on_failure=LAST, budget=4))
@example(Plan([Planned("s0", "pure", None)], events=[(0.2, "cancel")], seed=12, finally_=LAST))  # between end and flush
@example(Plan(CHAIN, timeout=5, events=[(0.7, "flush lost"), (1.5, "drain")], seed=99))
def test_a_run_ends_right_whatever_happens_on_its_way(plan: Plan) -> None:
    row, records, expected = play(plan)
    check_end(row, records, expected, plan)
    check_records(of(plan.steps, records), expected, complete=outcome_of(row)[0] == "succeeded")
    deaths = sum(event in {"crash", "stall"} for _, event in plan.events)
    check_handlers(row, records, plan, calm=plan.budget == 300 and deaths <= handlers.RECOVERIES)
    assert row.finished_at is not None
    assert row.finished_at - EPOCH < 600e6
