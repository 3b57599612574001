"""``decide``, moment by moment: what it may start, when it waits, parks and ends; over arbitrary snapshots."""

from __future__ import annotations

from typing import Any

import pytest
from bare_revisions import NOW, revision
from hypothesis import given
from hypothesis import strategies as st

from stepwell.domain.decide import (
    PARK_AFTER,
    Abort,
    Confirm,
    Finish,
    ParkUntil,
    Sleep,
    Snapshot,
    Start,
    decide,
)
from stepwell.domain.revision import Revision
from stepwell.domain.states import RunStatus

CHAIN = revision(((), False), ((0,), True), ((1,), False))
EFFECTS = revision(((), True), ((), True))


@pytest.mark.parametrize(
    ("known", "commands"),
    [
        (Snapshot(), [Start(0)]),
        (Snapshot(settled=0b1), []),  # the flush is awaited
        (Snapshot(settled=0b1, durable=0b1), [Confirm()]),
        (Snapshot(settled=0b1, durable=0b1, confirmed=True), [Start(1)]),
        (Snapshot(settled=0b1, durable=0b1, running=0b10, deadline=NOW + 9), [Sleep(NOW + 9)]),
        (Snapshot(settled=0b11, durable=0b1), [Start(2)]),  # pure steps do not wait for the flush
        (Snapshot(settled=0b111, durable=0b1), [Finish(RunStatus.SUCCEEDED)]),
    ],
)
def test_a_chain_from_its_start_to_its_end(known: Snapshot, commands: list[Any]) -> None:
    assert decide(CHAIN, known, NOW) == commands


@pytest.mark.parametrize(
    ("pause", "more", "commands"),
    [
        (PARK_AFTER, {}, [Sleep(NOW + PARK_AFTER)]),
        (PARK_AFTER + 1, {}, [ParkUntil(NOW + PARK_AFTER + 1)]),
        (PARK_AFTER + 1, {"running": 0b100, "deadline": NOW + 9 * PARK_AFTER}, [Sleep(NOW + PARK_AFTER + 1)]),
        (PARK_AFTER * 4, {"deadline": NOW + PARK_AFTER * 3}, [ParkUntil(NOW + PARK_AFTER * 3)]),
        (PARK_AFTER * 4, {"durable": 0b1}, [Sleep(NOW + PARK_AFTER * 4)]),
    ],
)
def test_a_pause_is_slept_or_parked(pause: int, more: dict[str, int], commands: list[Any]) -> None:
    three = revision(((), False), ((0,), True), ((), True))
    known: dict[str, Any] = {"settled": 0b101, "durable": 0b101, "retries": ((1, NOW + pause),), **more}
    if "running" in more:
        known["settled"] = known["durable"] = 0b1
    if more.get("durable") == 0b1:
        known["settled"] = 0b101
    assert decide(three, Snapshot(**known), NOW) == commands


@pytest.mark.parametrize(
    ("known", "commands"),
    [
        (Snapshot(failed=0), [Finish(RunStatus.FAILED)]),
        (Snapshot(failed=0, running=0b10), []),
        (Snapshot(cancelled=True), [Finish(RunStatus.CANCELLED)]),
        (Snapshot(cancelled=True, running=0b10), [Abort()]),
        (Snapshot(cancelled=True, failed=0, running=0b10), [Abort()]),
        (Snapshot(deadline=NOW), [Finish(RunStatus.TIMED_OUT)]),
        (Snapshot(deadline=NOW, running=0b1), [Abort()]),
        (Snapshot(deadline=NOW, failed=0, running=0b10), []),
        (Snapshot(deadline=NOW, settled=0b11, durable=0b11), [Finish(RunStatus.TIMED_OUT)]),
    ],
)
def test_endings(known: Snapshot, commands: list[Any]) -> None:
    assert decide(EFFECTS, known, NOW) == commands


def test_an_effect_waits_for_all_that_it_needs_and_not_only_for_its_neighbour() -> None:
    behind = revision(((), False), ((0,), False), ((1,), True))
    assert decide(behind, Snapshot(settled=0b11, durable=0b10, confirmed=True), NOW) == []
    assert decide(behind, Snapshot(settled=0b11, durable=0b11, confirmed=True), NOW) == [Start(2)]


def test_a_due_retry_starts_and_a_later_one_of_another_step_does_not() -> None:
    known = Snapshot(retries=((0, NOW), (1, NOW + 5)), confirmed=True)
    assert decide(EFFECTS, known, NOW) == [Start(0)]


@st.composite
def revisions(draw: st.DrawFn) -> Revision:
    count = draw(st.integers(1, 12))
    order = draw(st.permutations(range(count)))
    place = {step: place for place, step in enumerate(order)}
    steps = []
    for index in range(count):
        before = [other for other in range(count) if place[other] < place[index]]
        needs = draw(st.lists(st.sampled_from(before), unique=True, max_size=4)) if before else []
        steps.append((tuple(needs), draw(st.booleans())))
    return revision(*steps)


@st.composite
def moments(draw: st.DrawFn) -> tuple[Revision, Snapshot]:
    """A revision and what may be known of a run of it: needs are settled before what needs them."""
    drawn = draw(revisions())
    settled = durable = running = 0
    retries = []
    for step in sorted(drawn.steps, key=lambda step: step.ancestors.bit_count()):
        ready = not step.direct & ~settled
        state = draw(st.sampled_from(["new", "settled", "durable", "running", "retry"])) if ready else "new"
        settled |= step.bit if state in {"settled", "durable"} else 0
        durable |= step.bit if state == "durable" else 0
        running |= step.bit if state == "running" and step.effect else 0
        if state == "retry":
            retries.append((step.index, NOW + draw(st.integers(-5, 5)) * PARK_AFTER // 2))
    known = Snapshot(
        settled, durable, running, tuple(retries),
        failed=draw(st.sampled_from([-1, -1, -1, 0])),
        cancelled=draw(st.sampled_from([False, False, False, True])),
        confirmed=draw(st.booleans()),
        deadline=NOW + draw(st.sampled_from([-1, 1, PARK_AFTER, 1 << 40, 1 << 40])),
    )  # fmt: skip
    return drawn, known


@given(moments())
def test_only_what_may_start_is_started_and_nothing_twice(moment: tuple[Revision, Snapshot]) -> None:
    drawn, known = moment
    commands = decide(drawn, known, NOW)
    starts = [drawn.steps[c.step] for c in commands if isinstance(c, Start)]
    due = dict(known.retries)
    assert len({step.index for step in starts}) == len(starts)
    for step in starts:
        assert not step.bit & (known.settled | known.running)
        assert due.get(step.index, NOW) <= NOW
        assert not step.direct & ~known.settled
        assert not step.effect or (known.confirmed and not step.ancestors & ~known.durable)
    if known.cancelled or known.failed >= 0 or known.deadline <= NOW:
        assert not starts
        assert Confirm() not in commands


@given(moments())
def test_something_always_brings_the_run_on(moment: tuple[Revision, Snapshot]) -> None:
    """No commands, only where a call in flight or a flush ends the wait; and with a call in flight, time is watched."""
    drawn, known = moment
    commands = decide(drawn, known, NOW)
    if not commands:
        assert known.running or known.settled & ~known.durable
    if known.running and known.failed < 0 and not commands:
        raise AssertionError("nobody watches the deadline")


@given(moments())
def test_a_run_ends_or_parks_only_with_nothing_in_flight(moment: tuple[Revision, Snapshot]) -> None:
    drawn, known = moment
    commands = decide(drawn, known, NOW)
    for command in commands:
        if isinstance(command, Finish):
            assert commands == [command]
            assert not known.running
            assert command.status is not RunStatus.SUCCEEDED or known.settled == drawn.all
        if isinstance(command, ParkUntil):
            assert commands == [command]
            assert not known.running
            assert not known.settled & ~known.durable
            assert command.due - NOW > PARK_AFTER
            assert command.due <= known.deadline
        if isinstance(command, Sleep):
            assert commands == [command]
            assert command.until > NOW
