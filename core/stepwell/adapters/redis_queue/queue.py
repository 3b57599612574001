"""The ready queue on Redis or Valkey (7 or newer): which runs may be claimed, shared fairly between namespaces.

It holds ids only and may lose all of them at any time: PostgreSQL is the truth, and adding again is free.
The work is done by the functions of ``stepwell_ready.lua``, each one round trip.
"""

from __future__ import annotations

import contextlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from redis.exceptions import ResponseError

from stepwell.adapters.redis_queue.connection import CALL_TIMEOUT, bounded, connect
from stepwell.domain.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence

    from stepwell.engine.ports import ReadyRun

BATCH = 2000  #: runs a call; Lua unpacks at most some 8,000 values, and the server does nothing else meanwhile
PRIORITY_SHIFT = {"Low": 300_000, "Normal": 0, "High": -300_000}  #: ms on the creation time, so that Low never starves
LISTEN_INTERVAL = 10.0  #: seconds of silence after which a listener asks whether the server is there
_SHORTEST_WAIT = 0.01  #: seconds; 0 would be for ever
_LIBRARY = "stepwell_ready_v1"

T = TypeVar("T")


class ReadyQueue:
    """The queue of one Stepwell installation; ``prefix`` keeps several apart on one server.

    Every method raises UnavailableError within `CALL_TIMEOUT` where Redis is not there or refuses; after it, it is
    unknown whether the call took effect. ``calls`` counts round trips.
    """

    def __init__(self, url: str, prefix: str = "stepwell") -> None:
        self._redis = connect(url)
        self._execute: Callable[..., Awaitable[Any]] = self._redis.execute_command
        self._base = f"{{{prefix}}}"
        self._token_held = False
        self.calls = 0

    async def add(self, items: Sequence[ReadyRun]) -> None:
        """Offer runs; those that are there already stay where they are. One round trip for up to `BATCH` runs."""
        for batch in _batches(items):
            by_namespace: dict[str, list[int | str]] = {}
            for item in batch:
                score = item.created_ms + PRIORITY_SHIFT[item.priority]
                by_namespace.setdefault(item.namespace, []).extend((score, item.id))
            await self._call("add", orjson.dumps(by_namespace))

    async def take(self, n: int) -> list[str]:
        """Take up to ``n`` ids out: an equal share of every namespace with work, oldest first within one.

        While work remains, it leaves a token that ends somebody's `wait`.
        """
        answer = await self._call("take", n)
        self._token_held = False
        return list(orjson.loads(answer))

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 (the server waits, not we)
        """Wait up to ``timeout`` seconds for work; True: call `take` now.

        Each token wakes one caller, and the next one is left by its `take`. After False call `take` as well: a token
        goes lost with the process that it had woken.
        """
        self.calls += 1
        self._token_held = True  # also where we are cancelled, or the answer is lost
        async with bounded("waiting for runs", timeout + CALL_TIMEOUT):
            token = await self._execute("BLPOP", f"{self._base}:wake", max(timeout, _SHORTEST_WAIT))
        self._token_held = token is not None
        return self._token_held

    async def remove(self, ids: Mapping[str, Sequence[str]]) -> int:
        """Take these ids (by namespace) out; answers how many were there."""
        pairs = [(namespace, run_id) for namespace, run_ids in ids.items() for run_id in run_ids]
        removed = 0
        for batch in _batches(pairs):
            by_namespace: dict[str, list[str]] = {}
            for namespace, run_id in batch:
                by_namespace.setdefault(namespace, []).append(run_id)
            removed += await self._call("remove", orjson.dumps(by_namespace))
        return removed

    async def depth(self) -> dict[str, int]:
        """How many runs wait, by namespace."""
        found = await self._call("depth")
        return dict(zip(found[::2], found[1::2], strict=True))

    async def mark(self) -> bool:
        """Leave a mark on the server; whether the last one was still there, so that nothing was lost since."""
        self.calls += 1
        async with bounded("marking the ready queue"):
            return await self._execute("SET", f"{self._base}:mark", 1, "NX") is None

    async def publish_cancel(self, run_ids: Sequence[str]) -> None:
        """Hint to all listeners that these runs were cancelled; whoever does not hear it reads it from PostgreSQL."""
        self.calls += 1
        async with bounded("announcing a cancel"):
            await self._execute("PUBLISH", f"{self._base}:cancel", orjson.dumps(list(run_ids)))

    async def cancels(self) -> AsyncGenerator[list[str], None]:
        """The ids of each `publish_cancel` from now on; UnavailableError ends it, call again then.

        They are hints: anybody who reaches Redis may have sent them.
        """
        async with self._redis.pubsub() as channel:
            async with bounded("listening for cancels"):
                await channel.subscribe(f"{self._base}:cancel")
            asked = False
            while True:
                async with bounded("listening for cancels", LISTEN_INTERVAL + CALL_TIMEOUT):
                    message = await channel.get_message(timeout=CALL_TIMEOUT if asked else LISTEN_INTERVAL)
                    if message is None and asked:
                        raise UnavailableError("listening for cancels: Redis has gone silent")
                    asked = message is None
                    if asked:
                        await channel.ping()
                if message is not None and message["type"] == "message":
                    yield _ids(message["data"])

    async def close(self) -> None:
        """Disconnect. A token that `wait` took without a `take` after it is left for another worker."""
        with contextlib.suppress(UnavailableError):
            if self._token_held:
                await self.take(0)
        with contextlib.suppress(UnavailableError):
            async with bounded("disconnecting"):
                await self._redis.aclose()

    async def _call(self, function: str, *arguments: bytes | int) -> Any:
        command = ("FCALL", f"{_LIBRARY}_{function}", 1, self._base, *arguments)
        self.calls += 1
        async with bounded(f"ready queue, {function}"):
            try:
                return await self._execute(*command)
            except ResponseError as error:
                if "function not found" not in str(error).lower():
                    raise
            self.calls += 2  # a new or emptied server
            await self._execute("FUNCTION", "LOAD", "REPLACE", _source())
            return await self._execute(*command)


def _source() -> bytes:
    return files(__package__).joinpath("stepwell_ready.lua").read_bytes()


def _ids(message: str) -> list[str]:
    """What a message lists; nothing where it is not one of ours."""
    try:
        found = orjson.loads(message)
    except orjson.JSONDecodeError:
        return []
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _batches(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))
