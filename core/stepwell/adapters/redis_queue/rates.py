"""Rates and backlogs on Redis, shared by all gateways: ``RateStore`` of the engine."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import orjson
from redis.exceptions import ResponseError

from stepwell.adapters.redis_queue.connection import bounded, connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from stepwell.engine.rates import Limit, Refusal

CALL_TIME = 0.25  #: seconds; somebody waits for an answer, and without Redis each process counts for itself
_LIBRARY = "stepwell_rates_v1"


class RedisRates:
    """See RateStore. Raises UnavailableError within `CALL_TIME`."""

    def __init__(self, url: str, prefix: str = "stepwell") -> None:
        self._redis = connect(url)
        self._execute: Callable[..., Awaitable[Any]] = self._redis.execute_command
        self._base = f"{{{prefix}}}"

    async def take(self, requests: Sequence[Sequence[Limit]]) -> list[Refusal | None]:
        """See RateStore."""
        wanted = [[(limit.name, limit.most, limit.per_ms) for limit in limits] for limits in requests]
        answers = orjson.loads(await self._call("take", orjson.dumps(wanted)))
        return [None if answer == 0 else (answer[0], answer[1]) for answer in answers]

    async def queued(self, namespaces: Sequence[str]) -> dict[str, int]:
        """See RateStore."""
        async with bounded("looking at the ready queue", CALL_TIME), self._redis.pipeline(transaction=False) as pipe:
            for namespace in namespaces:
                pipe.zcard(f"{self._base}:ready:{namespace}")
            return dict(zip(namespaces, await pipe.execute(), strict=True))

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()

    async def _call(self, function: str, argument: bytes) -> Any:
        command = ("FCALL", f"{_LIBRARY}_{function}", 1, self._base, argument)
        async with bounded(f"rates, {function}", CALL_TIME):
            try:
                return await self._execute(*command)
            except ResponseError as error:
                if "function not found" not in str(error).lower():
                    raise
            source = files(__package__).joinpath("stepwell_rates.lua").read_bytes()
            await self._execute("FUNCTION", "LOAD", "REPLACE", source)  # a new or emptied server
            return await self._execute(*command)
