"""``decide`` on the items of a step: which may start, how many are under way, and when the step's result is put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bare_revisions import NOW, revision
from hypothesis import given
from hypothesis import strategies as st

from stepwell.domain.decide import (
    PARK_AFTER,
    Abort,
    Command,
    Confirm,
    Finish,
    Gather,
    Items,
    ParkUntil,
    Sleep,
    Snapshot,
    Start,
    StartItem,
    decide,
)
from stepwell.domain.for_each import ForEach
from stepwell.domain.revision import Revision
from stepwell.domain.states import RunStatus

FOREVER = 1 << 50


def with_items(*steps: tuple[tuple[int, ...], bool]) -> Revision:
    """The last step runs for each of several items."""
    made = revision(*steps)
    last = replace(made.steps[-1], for_each=ForEach(None, 3, 100))  # type: ignore[arg-type]
    return replace(made, steps=(*made.steps[:-1], last))


ONE = with_items(((), True))
BEHIND = with_items(((), False), ((0,), True))
PURE = with_items(((), False))


def seen(items: Items, **known: Any) -> Snapshot:
    running = 1 << items.step if items.running else 0
    return Snapshot(**{"running": running, "confirmed": True, "deadline": FOREVER, "items": (items,), **known})


def started(*items: int, step: int = 0) -> list[Command]:
    return [StartItem(step, item) for item in items]


@pytest.mark.parametrize("drawn", [ONE, BEHIND])
def test_what_the_items_are_is_found_before_anything_is_durable(drawn: Revision) -> None:
    known = Snapshot(settled=drawn.all >> 1)
    assert decide(drawn, known, NOW) == [Start(len(drawn.steps) - 1)]


@pytest.mark.parametrize(
    ("items", "known", "commands"),
    [
        (Items(0, 0b11111, parallel=3), {}, started(0, 1, 2)),
        (Items(0, 0b11111, parallel=3), {"confirmed": False}, [Confirm()]),
        (Items(0, 0b10100, parallel=3), {}, started(2, 4)),
        (Items(0, 0b11111, running=0b101, parallel=3), {}, started(1)),
        (Items(0, 0b11111, running=0b111, parallel=3), {}, [Sleep(FOREVER)]),
        (Items(0, 0b11111, running=0b111, parallel=3), {"confirmed": False}, [Sleep(FOREVER)]),
        (Items(0, 0b1111, running=0b1, retries=((1, NOW + 5),), parallel=3), {}, started(2)),
        (Items(0, 0b1111, running=0b1, retries=((1, NOW),), parallel=2), {}, started(1)),
        (Items(0, 0b1111, retries=((1, NOW), (2, NOW + 5)), parallel=2), {}, started(1)),
        (Items(0, 0b11, retries=((0, NOW + 9), (1, NOW + 5))), {}, [Sleep(NOW + 5)]),
        (Items(0, 0b1, retries=((0, NOW + PARK_AFTER + 1),)), {}, [ParkUntil(NOW + PARK_AFTER + 1)]),
        (Items(0, 0b1, retries=((0, NOW + PARK_AFTER * 3),)), {"deadline": NOW + PARK_AFTER * 2}, [ParkUntil(NOW + PARK_AFTER * 2)]),
        (Items(0, 0b11, 0b10, retries=((0, NOW + PARK_AFTER * 3),), parallel=2), {}, [Sleep(NOW + PARK_AFTER * 3)]),
        (Items(0, 0), {}, [Gather(0)]),
        (Items(0, 0, failed=True), {"failed": 0}, [Gather(0)]),
        (Items(0, 0b110, failed=True), {"failed": 0}, [Gather(0)]),
        (Items(0, 0b110, failed=True), {}, [Gather(0)]),
        (Items(0, 0b110, running=0b10, failed=True), {"failed": 0}, []),
        (Items(0, 0b110), {"failed": 0}, [Finish(RunStatus.FAILED)]),
        (Items(0, 0), {"cancelled": True}, [Finish(RunStatus.CANCELLED)]),
        (Items(0, 0b1, running=0b1), {"cancelled": True}, [Abort()]),
        (Items(0, 0), {"deadline": NOW}, [Finish(RunStatus.TIMED_OUT)]),
    ],
)  # fmt: skip
def test_moments(items: Items, known: dict[str, Any], commands: list[Any]) -> None:
    assert decide(ONE, seen(items, **known), NOW) == commands


def test_an_effect_of_an_item_waits_for_all_that_its_step_needs_and_a_pure_one_does_not() -> None:
    items = Items(1, 0b1)
    assert decide(BEHIND, seen(items, settled=0b1), NOW) == []
    assert decide(BEHIND, seen(items, settled=0b1, durable=0b1), NOW) == started(0, step=1)
    assert decide(PURE, seen(Items(0, 0b11, parallel=1), confirmed=False), NOW) == started(0)


def test_another_step_goes_on_beside_them() -> None:
    both = with_items(((), True), ((), True))
    known = seen(Items(1, 0b11, running=0b11, parallel=2))
    assert decide(both, known, NOW) == [Start(0)]
    assert decide(both, replace(known, running=0b11, retries=((0, NOW + 5),)), NOW) == [Sleep(NOW + 5)]


@st.composite
def moments(draw: st.DrawFn) -> Snapshot:
    count, parallel = draw(st.integers(0, 40)), draw(st.integers(1, 6))
    left = draw(st.integers(0, (1 << count) - 1))
    under_way = [index for index in range(count) if left >> index & 1][:: draw(st.integers(1, 4))][:parallel]
    cut = draw(st.integers(0, len(under_way)))
    retries = tuple((index, NOW + draw(st.integers(-5, 5)) * PARK_AFTER // 2) for index in under_way[cut:])
    items = Items(0, left, sum(1 << index for index in under_way[:cut]), retries, parallel, failed=draw(st.booleans()))
    failed = 0 if items.failed else -1
    return seen(
        items, failed=failed, confirmed=draw(st.booleans()), cancelled=draw(st.sampled_from([False, False, True]))
    )


@given(st.sampled_from([ONE, PURE]), moments())
def test_only_what_may_start_does_and_something_brings_the_run_on(drawn: Revision, known: Snapshot) -> None:
    (items,) = known.items
    commands = decide(drawn, known, NOW)
    starts = [command.item for command in commands if isinstance(command, StartItem)]
    retries = dict(items.retries)
    assert len(set(starts)) == len(starts)
    for item in starts:
        assert items.left >> item & 1
        assert not items.running >> item & 1
        assert retries.get(item, NOW) <= NOW
        assert known.confirmed or drawn is PURE
    fresh = sum(item not in retries for item in starts)
    assert items.running.bit_count() + len(retries) + fresh <= items.parallel
    if known.cancelled or items.failed:
        assert not starts
    assert (Gather(0) in commands) == (not items.running and not known.cancelled and (items.failed or not items.left))
    assert commands or (items.running and items.failed), "nothing would bring the run on"
