"""Rates: the same rule in Redis and in a process that is alone, and what it promises."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import redis
from hypothesis import given
from hypothesis import strategies as st

from stepwell.adapters.redis_queue.rates import RedisRates
from stepwell.domain.errors import UnavailableError
from stepwell.engine.rates import ALONE, Limit, Rates, Windows, waiting_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.engine.rates import Refusal

HOUR = 3_600_000


@given(st.lists(st.integers(0, 400), max_size=200), st.integers(1, 5))
def test_no_window_holds_more_than_the_limit_and_who_waits_is_let_in(pauses: list[int], most: int) -> None:
    limit, windows, now, taken = Limit("a", most, 1_000), Windows(), 7_000, []
    for pause in pauses:
        now += pause
        refused = windows.take([limit], now)
        if refused is None:
            taken.append(now)
        else:
            later = Windows()
            later._counts = windows._counts.copy()
            assert later.take([limit], now + refused[1]) is None, "after the wait one more is allowed"
    for start in range(7_000, now + 1_000, 1_000):
        assert sum(start <= moment < start + 1_000 for moment in taken) <= most


def test_a_request_that_one_limit_refuses_counts_for_none() -> None:
    windows, wide, narrow = Windows(), Limit("wide", 2, 1_000), Limit("narrow", 1, 1_000)
    assert windows.take([narrow, wide], 5_000) is None
    assert windows.take([wide, narrow], 5_000) == (1, 2_000)
    assert windows.take([wide], 5_000) is None


async def test_redis_counts_as_a_process_alone_does(redis_url: str) -> None:
    """The last window's counts are laid down, so that all three cases of the rule are met."""
    store = RedisRates(redis_url)
    client = redis.Redis.from_url(redis_url)
    try:
        for present, last, most in ((0, 0, 1), (0, 9, 5), (3, 9, 5), (4, 2, 5), (5, 0, 5), (5, 5, 5), (0, 40, 5)):
            now = int(time.time() * 1000)
            window, elapsed = divmod(now, HOUR)
            client.set(f"{{stepwell}}:rate:a:{window}", present)
            client.set(f"{{stepwell}}:rate:a:{window - 1}", last)
            limit = Limit("a", most, HOUR)
            expected = waiting_time(present, last, elapsed, limit)
            [answer] = await store.take([[limit]])
            assert (answer is None) == (expected == 0), (present, last, most)
            assert answer is None or abs(answer[1] - expected) < 60_000, (present, last, most)
            counted = int(client.get(f"{{stepwell}}:rate:a:{window}") or 0)
            assert counted == present + (answer is None)
        assert await store.take([[Limit("b", 1, HOUR)]]) == [None]
        [key] = client.keys("*:rate:b:*")
        assert 0 < client.pttl(key) <= 2 * HOUR, "a window is forgotten after the next one"
    finally:
        client.close()
        await store.close()


class Store:
    """A RateStore that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.calls: list[int] = []

    async def take(self, requests: Sequence[Sequence[Limit]]) -> list[Refusal | None]:
        self.calls.append(len(requests))
        await asyncio.sleep(0)
        if self.away:
            raise UnavailableError("away")
        return [None] * len(requests)

    async def queued(self, namespaces: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(namespaces, 0)


async def test_many_who_ask_at_once_cost_few_calls_and_an_absent_store_is_left_alone_for_a_while() -> None:
    now = [1_000.0]
    store = Store()
    rates = Rates(store, clock=lambda: now[0])
    limit = [Limit("a", 2, HOUR)]
    assert await asyncio.gather(*(rates.take(limit) for _ in range(50))) == [None] * 50
    assert sum(store.calls) == 50
    assert len(store.calls) <= 2
    store.away = True
    store.calls.clear()
    answers = [await rates.take(limit) for _ in range(5)]
    assert [answer is None for answer in answers] == [True, True, False, False, False]
    assert store.calls == [1], "asked once, then no more for a while"
    now[0] += ALONE + 1
    store.away = False
    assert await rates.take(limit) is None
    assert store.calls == [1, 1]
