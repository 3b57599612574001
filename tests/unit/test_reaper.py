"""Whom the reaper takes for dead, and when; and what it takes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_upkeep import Clock, Queue, Upkeep
from virtual_time import virtual_time

from stepwell.domain.errors import UnavailableError
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.maintenance.reaper import AFTERMATH, BATCH, LOOK, PERIOD, SILENCE, Reaper

if TYPE_CHECKING:
    from collections.abc import Sequence


class Watch:
    """A reaper with everything around it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store: Any = Upkeep()
        self.queue: Any = Queue()
        self.reaper = Reaper(self.store, Offers(self.queue, monotonic=self.clock), monotonic=self.clock)

    async def look(self, after: float = 0.0) -> None:
        self.clock.now += after
        await self.reaper.run()

    async def watch(self, seconds: float) -> None:
        """Look once a period."""
        for _ in range(round(seconds / PERIOD)):
            await self.look(PERIOD)


@virtual_time
async def test_a_worker_is_dead_after_its_silence_and_not_before() -> None:
    watch = Watch()
    watch.store.beats = {1: 10, 2: 10}
    await watch.look()
    for _ in range(round(SILENCE / PERIOD) - 1):
        watch.store.beats[2] += 1
        await watch.look(PERIOD)
    assert watch.store.dead == []
    watch.store.beats[2] += 1
    await watch.look(PERIOD)
    assert watch.store.dead == [1]


@virtual_time
async def test_a_beat_starts_the_silence_anew() -> None:
    watch = Watch()
    watch.store.beats = {1: 10}
    await watch.look()
    await watch.watch(SILENCE - PERIOD)
    watch.store.beats[1] += 1
    await watch.watch(SILENCE)
    assert watch.store.dead == []
    await watch.watch(PERIOD)
    assert watch.store.dead == [1]


@virtual_time
async def test_a_beat_between_the_look_and_the_verdict_saves_the_worker() -> None:
    watch = Watch()
    watch.store.beats = {1: 10}
    await watch.look()
    await watch.watch(SILENCE - PERIOD)
    counters = watch.store.counters

    async def beating_meanwhile() -> dict[int, int]:
        seen: dict[int, int] = await counters()
        watch.store.beats[1] += 1
        return seen

    watch.store.counters = beating_meanwhile
    await watch.look(PERIOD)
    assert watch.store.dead == []


@virtual_time
async def test_an_outage_starts_every_silence_anew() -> None:
    watch = Watch()
    watch.store.beats = {1: 10}
    await watch.look()
    await watch.watch(SILENCE - PERIOD)
    watch.store.down = True
    with pytest.raises(UnavailableError):
        await watch.look(PERIOD)
    watch.store.down = False
    await watch.watch(SILENCE)
    assert watch.store.dead == []
    await watch.watch(PERIOD)
    assert watch.store.dead == [1]


@pytest.mark.parametrize("gap", [SILENCE, 3600.0])
@virtual_time
async def test_a_gap_in_the_watch_starts_every_silence_anew(gap: float) -> None:
    """A leader that stood still saw nobody fall silent."""
    watch = Watch()
    watch.store.beats = {1: 10}
    await watch.look()
    await watch.watch(SILENCE / 2)
    await watch.look(gap)
    assert watch.store.dead == []


@virtual_time
async def test_a_query_that_took_long_is_no_silence() -> None:
    watch = Watch()
    watch.store.beats = {1: 10}
    await watch.look()
    await watch.watch(SILENCE / 2)
    counters = watch.store.counters

    async def slow() -> dict[int, int]:
        watch.clock.now += SILENCE / 2
        return await counters()  # type: ignore[no-any-return]

    watch.store.counters = slow
    await watch.look(0.1)
    assert watch.store.dead == []


@virtual_time
async def test_a_new_leadership_starts_every_silence_anew() -> None:
    watch = Watch()
    watch.store.beats = {1: 10}
    await watch.look()
    await watch.watch(SILENCE - PERIOD)
    watch.reaper.reset()
    await watch.watch(SILENCE)
    assert watch.store.dead == []


@virtual_time
async def test_leadership_that_begins_anew_between_two_verdicts_spares_the_second_worker() -> None:
    watch = Watch()
    watch.store.beats = {1: 10, 2: 10}
    await watch.look()
    await watch.watch(SILENCE - PERIOD)
    declare = watch.store.declare_dead

    async def interrupted(worker: int, counter: int) -> bool:
        watch.reaper.reset()
        return await declare(worker, counter)  # type: ignore[no-any-return]

    watch.store.declare_dead = interrupted
    await watch.look(PERIOD)
    assert watch.store.dead == [1]


@given(st.lists(st.tuples(st.sampled_from(["beat", "look", "outage", "reset", "stall"]), st.floats(0, 9)), max_size=40))
def test_nobody_dies_who_was_not_watched_in_silence_for_long_enough(moves: list[tuple[str, float]]) -> None:
    async def play() -> None:
        watch = Watch()
        watch.store.beats = {1: 0}
        silent_since = watch.clock.now
        for move, seconds in moves:
            watch.clock.now += seconds
            if move == "beat":
                watch.store.beats[1] += 1
                silent_since = watch.clock.now
            elif move == "outage":
                watch.store.down = True
                with pytest.raises(UnavailableError):
                    await watch.look()
                watch.store.down = False
                silent_since = watch.clock.now
            elif move == "reset":
                watch.reaper.reset()
                silent_since = watch.clock.now
            else:
                await watch.look(SILENCE if move == "stall" else 0.0)
                silent_since = watch.clock.now if move == "stall" else silent_since
            if watch.store.dead:
                assert watch.clock.now - silent_since >= SILENCE
                return

    asyncio.run(play())


@virtual_time
async def test_what_dead_workers_left_is_taken_back_in_batches_and_offered_but_for_suspects() -> None:
    watch = Watch()
    watch.store.orphaned = dict.fromkeys([f"r{n}" for n in range(BATCH + 1)] + ["suspect", "poison"], 1)
    await watch.look()
    assert watch.store.reaped == [BATCH, 3]
    assert len(watch.queue.added) == BATCH + 1
    assert not {"suspect", "poison"} & set(watch.queue.added)
    assert watch.reaper.recoveries == BATCH + 3


@virtual_time
async def test_orphans_are_looked_for_at_every_tick_after_a_loss_and_now_and_then_otherwise() -> None:
    watch = Watch()
    watch.store.beats = {1: 10, 2: 10}

    async def looks(seconds: float, *, beating: Sequence[int]) -> int:
        watch.store.calls.clear()
        for _ in range(round(seconds / PERIOD)):
            for worker in beating:
                watch.store.beats[worker] += 1
            await watch.look(PERIOD)
        return int(watch.store.calls.count("orphans"))

    assert await looks(AFTERMATH, beating=[1, 2]) >= AFTERMATH / PERIOD - 1  # who was lost before is not known
    await looks(LOOK, beating=[1, 2])
    assert await looks(10 * LOOK, beating=[1, 2]) <= 11
    await looks(SILENCE + PERIOD, beating=[1])
    assert watch.store.dead == [2]
    assert await looks(AFTERMATH - 2 * PERIOD, beating=[1]) >= AFTERMATH / PERIOD - 3
    await looks(LOOK, beating=[1])
    del watch.store.beats[1]  # signed off, or declared dead by another
    assert await looks(AFTERMATH, beating=[]) >= AFTERMATH / PERIOD - 1
