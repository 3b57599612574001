"""The ready queue against a real Valkey: fairness, order, wake-ups, and what its callers see when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import time
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest
import redis
from fault_proxy import FaultProxy, Mode
from services import redis_address
from waiting import eventually

from stepwell.adapters.redis_queue import ReadyQueue
from stepwell.adapters.redis_queue.connection import CALL_TIMEOUT, bounded
from stepwell.domain.errors import UnavailableError
from stepwell.engine.ports import ReadyRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell_cli.embedded import EmbeddedValkey

NOON = 1_763_800_000_000  # ms
MINUTE = 60_000
TOKEN = "{stepwell}:wake"


@contextlib.asynccontextmanager
async def opened(url: str, prefix: str = "stepwell") -> AsyncIterator[ReadyQueue]:
    queue = ReadyQueue(url, prefix)
    try:
        yield queue
    finally:
        await queue.close()


def runs(namespace: str, count: int, created_ms: int = NOON, priority: str = "Normal") -> list[ReadyRun]:
    return [ReadyRun(f"{namespace}-{i:06}", namespace, created_ms + i, priority) for i in range(count)]


def tokens(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return client.llen(TOKEN)


async def test_a_single_run_is_not_behind_100_000_of_another_namespace(redis_url: str) -> None:
    async with opened(redis_url) as queue:
        await queue.add(runs("big", 100_000))
        await queue.add(runs("small", 1, NOON + 5 * MINUTE))
        ids = await queue.take(10)
        assert "small-000000" in ids
        assert [i for i in ids if i.startswith("big")] == [f"big-{i:06}" for i in range(9)]
        assert await queue.depth() == {"big": 99_991}


async def test_shares_are_equal_and_continue_where_the_last_call_stopped(redis_url: str) -> None:
    async with opened(redis_url) as queue:
        for name in "abcde":
            await queue.add(runs(name, 100))
        first = [id_[0] for _ in range(5) for id_ in await queue.take(1)]
        assert sorted(first) == list("abcde")
        shares: Counter[str] = Counter()
        for _ in range(10):
            shares.update(id_[0] for id_ in await queue.take(7))
        assert sum(shares.values()) == 70
        assert set(shares.values()) <= {13, 14, 15}


async def test_what_poor_namespaces_leave_goes_to_the_others(redis_url: str) -> None:
    async with opened(redis_url) as queue:
        await queue.add(runs("a", 1) + runs("b", 1) + runs("c", 500))
        ids = await queue.take(200)
        assert len(set(ids)) == 200
        assert {"a-000000", "b-000000"} < set(ids)


async def test_a_namespace_that_comes_and_goes_does_not_jump_the_ring(redis_url: str) -> None:
    async with opened(redis_url) as queue:
        await queue.add(runs("steady", 3))
        taken = []
        for i in range(6):
            await queue.add([ReadyRun(f"guest-{i}", "guest", NOON)])
            taken += await queue.take(1)
        assert sum(id_.startswith("steady") for id_ in taken) == 3


async def test_oldest_first_moved_by_priority_so_that_low_never_starves(redis_url: str) -> None:
    def at(minute: float, priority: str) -> ReadyRun:
        return ReadyRun(f"{priority} {minute:g}", "team", NOON + int(minute * MINUTE), priority)

    async with opened(redis_url) as queue:
        await queue.add(
            [at(0, "Low"), at(1, "Normal"), at(2, "High"), at(4.5, "High"), at(6, "Normal"), at(12, "High")]
        )
        assert await queue.take(10) == ["High 2", "High 4.5", "Normal 1", "Low 0", "Normal 6", "High 12"]


async def test_adding_again_changes_nothing(redis_url: str) -> None:
    async with opened(redis_url) as queue:
        await queue.add(runs("a", 3))
        await queue.add(runs("a", 3) + runs("a", 1))
        assert await queue.depth() == {"a": 3}
        assert await queue.take(10) == [run.id for run in runs("a", 3)]
        assert await queue.take(10) == []
        assert await queue.depth() == {}


async def test_removed_runs_are_not_taken(redis_url: str) -> None:
    async with opened(redis_url) as queue:
        await queue.add(runs("a", 3) + runs("b", 1))
        assert await queue.remove({"a": ["a-000001", "unknown"], "b": ["b-000000"], "c": ["c"]}) == 2
        assert await queue.depth() == {"a": 2}
        assert await queue.take(10) == ["a-000000", "a-000002"]
        assert await queue.remove({}) == 0


async def test_batches_are_one_round_trip(redis_url: str) -> None:
    async with opened(redis_url) as queue:
        await queue.depth()
        before = queue.calls
        await queue.add(runs("a", 1000) + runs("b", 1000))
        assert len(await queue.take(500)) == 500
        await queue.add([])
        assert queue.calls - before == 2


async def test_prefixes_keep_queues_apart(redis_url: str) -> None:
    async with opened(redis_url, "one") as one, opened(redis_url, "two") as two:
        await one.add(runs("a", 1))
        assert await two.take(1) == []
        assert await one.take(1) == ["a-000000"]


async def test_one_token_stands_for_any_amount_of_work(redis_url: str) -> None:
    async with opened(redis_url) as queue:
        for run in runs("a", 20):
            await queue.add([run])
        assert tokens(redis_url) == 1
        assert await queue.wait(1) is True
        assert await queue.wait(0) is False
        await queue.take(5)
        assert tokens(redis_url) == 1
        await queue.take(15)
        assert tokens(redis_url) == 0


async def test_an_add_between_take_and_wait_is_not_missed(redis_url: str) -> None:
    async with opened(redis_url) as queue:
        assert await queue.take(10) == []
        await queue.add(runs("a", 1))
        assert await queue.wait(5) is True
        assert await queue.take(10) == ["a-000000"]


async def worker(url: str, taken: asyncio.Queue[str], slots: int) -> None:
    """A worker's loop that trusts wake-ups alone: one that is lost hangs the test."""
    async with opened(url) as queue:
        while True:
            while ids := await queue.take(slots):
                for run_id in ids:
                    taken.put_nowait(run_id)
            while not await queue.wait(30):
                pass


async def test_no_wake_up_is_lost_with_many_waiting_workers(redis_url: str) -> None:
    taken: asyncio.Queue[str] = asyncio.Queue()
    workers = [asyncio.create_task(worker(redis_url, taken, slots)) for slots in (1, 2, 3, 5)]
    expected: set[str] = set()

    async def arrived() -> None:
        await eventually(lambda: taken.qsize() == len(expected))

    try:
        async with opened(redis_url) as first, opened(redis_url) as second:
            for i in range(150):
                batch = [ReadyRun(f"{i}-{j}", f"n{j % 3}", NOON + i) for j in range(i % 13 + 1)]
                expected.update(run.id for run in batch)
                await asyncio.gather(first.add(batch[::2]), second.add(batch[1::2]))
                if i % 4 == 0:  # let them run dry and fall asleep
                    await arrived()
            await arrived()
        assert {taken.get_nowait() for _ in range(taken.qsize())} == expected
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def test_a_burst_wakes_every_worker_that_it_needs(redis_url: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(opened(redis_url)) for _ in range(4)]
        waiting = {asyncio.create_task(queue.wait(30)) for queue in queues}
        await eventually(lambda: blocked(redis_url) == 4)
        await queues[0].add(runs("a", 40))
        for woken in 1, 2, 3, 4:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done = {task for task in waiting if task.done()}
            assert len(done) == 1, f"token {woken} woke {len(done)}"
            waiting -= done
            assert done.pop().result() is True
            assert len(await queues[0].take(10)) == 10


def blocked(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return client.info("clients")["blocked_clients"]


async def test_a_worker_that_leaves_hands_its_token_on(redis_url: str) -> None:
    async with opened(redis_url) as other:
        leaving = ReadyQueue(redis_url)
        waiting = asyncio.create_task(leaving.wait(30))
        await eventually(lambda: blocked(redis_url) == 1)
        await other.add(runs("a", 1))  # the token is on its way, and nobody will read it
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await leaving.close()
        assert await other.wait(5) is True


@pytest.mark.parametrize("loss", ["FUNCTION FLUSH", "FLUSHALL"])
async def test_a_flushed_server_is_used_again_at_once(redis_url: str, loss: str) -> None:
    async with opened(redis_url) as queue:
        await queue.add(runs("a", 3))
        with redis.Redis.from_url(redis_url) as client:
            client.execute_command(loss)
            client.function_flush()
        await queue.add(runs("a", 4))
        assert len(await queue.take(10)) == 4


async def test_a_server_that_comes_back_empty_is_used_again_at_once(own_valkey: EmbeddedValkey) -> None:
    async with opened(own_valkey.url) as queue:
        await queue.add(runs("a", 3))
        own_valkey.kill()
        with pytest.raises(UnavailableError, match="not available"):
            await queue.take(1)
        own_valkey.start()
        assert await queue.take(10) == []
        await queue.add(runs("a", 3))
        assert await queue.wait(5) is True
        assert len(await queue.take(10)) == 3


async def test_a_waiting_worker_learns_at_once_that_the_server_died(own_valkey: EmbeddedValkey) -> None:
    async with opened(own_valkey.url) as queue:
        waiting = asyncio.create_task(queue.wait(30))
        await eventually(lambda: blocked(own_valkey.url) == 1)
        own_valkey.kill()
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(waiting, 1)


async def test_a_stopped_server_is_given_up_in_time(own_valkey: EmbeddedValkey) -> None:
    async with opened(own_valkey.url) as queue:
        await queue.add(runs("a", 1))
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            calls = queue.take(1), queue.wait(0.1), queue.publish_cancel(["x"])
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(outcome, UnavailableError)
                assert "did not answer" in str(outcome)
            assert time.monotonic() - started < CALL_TIMEOUT + 1
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
        assert await queue.depth() in ({"a": 1}, {})  # the take was sent: it may have happened


async def test_a_cut_and_refused_network_is_typed_and_heals(redis_url: str) -> None:
    proxy = FaultProxy(redis_address(redis_url))
    async with proxy, opened(f"redis://{proxy.host}:{proxy.port}") as queue:
        await queue.add(runs("a", 2))
        proxy.mode = Mode.REFUSE
        with pytest.raises(UnavailableError, match="not available"):
            await queue.take(1)
        proxy.mode = Mode.PASS
        assert await queue.take(1) == ["a-000000"]
        proxy.drop_reply()
        with pytest.raises(UnavailableError):
            await queue.take(1)
        assert proxy.counts["dropped"] == 1
        assert await queue.depth() == {}


async def test_a_connection_lost_just_before_its_use_is_typed(redis_url: str) -> None:
    async with FaultProxy(redis_address(redis_url)) as proxy:
        _, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.transport.abort()
        await eventually(lambda: "closed=True" in repr(writer.transport))
        with pytest.raises(UnavailableError, match=r"marking: Redis is not available: .* is closed"):
            async with bounded("marking"):
                writer.writelines([b"SET mark 1"])
        with pytest.raises(RuntimeError, match="ours"):
            async with bounded("marking"):
                raise RuntimeError("ours")


async def test_nobody_there_and_no_such_address() -> None:
    for url in "redis://127.0.0.1:1", "unix:///nowhere/valkey.sock":
        async with opened(url) as queue:
            started = time.monotonic()
            with pytest.raises(UnavailableError, match="not available"):
                await queue.add(runs("a", 1))
            assert time.monotonic() - started < 1
    with pytest.raises(UnavailableError, match="REDIS_URL"):
        ReadyQueue("http://127.0.0.1")


async def test_a_full_server_refuses_runs_and_still_gives_them_out(own_valkey: EmbeddedValkey) -> None:
    async with opened(own_valkey.url) as queue:
        await queue.add(runs("a", 2))
        with redis.Redis.from_url(own_valkey.url) as client:
            client.config_set("maxmemory", 1)
        with pytest.raises(UnavailableError, match="memory"):
            await queue.add(runs("b", 1))
        assert len(await queue.take(5)) == 2


async def test_cancels_reach_every_listener(redis_url: str) -> None:
    async with opened(redis_url) as one, opened(redis_url) as two:
        listeners = [queue.cancels() for queue in (one, two)]
        heard = [asyncio.create_task(anext(listener)) for listener in listeners]
        with redis.Redis.from_url(redis_url) as client:
            await eventually(lambda: client.pubsub_numsub("{stepwell}:cancel")[0][1] == 2)
        await one.publish_cancel(["r1", "r2"])
        assert await asyncio.gather(*heard) == [["r1", "r2"]] * 2
        for listener in listeners:
            await listener.aclose()


async def test_what_is_no_list_of_ids_is_heard_as_none(redis_url: str) -> None:
    async with opened(redis_url) as queue:
        listener = queue.cancels()
        heard = asyncio.create_task(anext(listener))
        with redis.Redis.from_url(redis_url) as client:
            await eventually(lambda: client.pubsub_numsub("{stepwell}:cancel")[0][1] == 1)
            for message in ("{", '"r1"', '{"r1": 1}', '["r1", 2, null]'):
                client.publish("{stepwell}:cancel", message)
        assert [await heard, *[await anext(listener) for _ in range(3)]] == [[], [], [], ["r1"]]
        await listener.aclose()


async def test_a_listener_learns_that_the_server_died(own_valkey: EmbeddedValkey) -> None:
    async with opened(own_valkey.url) as queue:
        heard = asyncio.create_task(anext(queue.cancels()))
        with redis.Redis.from_url(own_valkey.url) as client:
            await eventually(lambda: client.pubsub_numsub("{stepwell}:cancel")[0][1] == 1)
        own_valkey.kill()
        with pytest.raises(UnavailableError):
            await heard


def test_changed_functions_get_a_new_version() -> None:
    source = files("stepwell.adapters.redis_queue").joinpath("stepwell_ready.lua").read_bytes()
    digest = hashlib.sha256(source).hexdigest()[:16]
    assert digest == "38e7c6e1aea5e528", (
        "a server keeps what it loaded: rename v1 in stepwell_ready.lua and queue.py, then this digest"
    )
