"""How Stepwell talks to Redis or Valkey: bounded waits, no hidden retries, errors re-typed.

redis-py's own defaults try ten times over 3.8 s before they admit that nobody is there; a worker has PostgreSQL to
turn to and wants to know at once.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from stepwell.domain.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNECT_TIMEOUT = 1.0  #: seconds
CALL_TIMEOUT = 2.0  #: seconds that a call may take in all, connecting included
_CLOSED = "the handler is closed"  # uvloop's words where a connection is lost between redis-py's look at it and its use


def connect(url: str) -> Redis:
    """A client for ``redis://``, ``rediss://`` or ``unix://`` that connects at its first call. Answers are text."""
    try:
        return Redis.from_url(
            url,
            decode_responses=True,
            protocol=2,  # connecting takes no round trip of its own
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=None,  # `bounded` limits each call as a whole
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
        )
    except ValueError as error:
        msg = f"REDIS_URL: {error}"
        raise UnavailableError(msg) from error


@asynccontextmanager
async def bounded(doing: str, seconds: float = CALL_TIMEOUT) -> AsyncIterator[None]:
    """Give what happens inside ``seconds``; UnavailableError for that and for every error of redis-py.

    Whether the call took effect is unknown then.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        msg = f"{doing}: Redis did not answer within {seconds:g} s"
        raise UnavailableError(msg) from error
    except (RedisError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and _CLOSED not in str(error):
            raise
        msg = f"{doing}: Redis is not available: {str(error) or type(error).__name__}"
        raise UnavailableError(msg) from error
