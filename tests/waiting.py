"""Waiting for a state with a deadline, the only kind of waiting that tests do."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

PAUSE = 0.005  #: seconds between two looks


async def eventually(
    predicate: Callable[[], T | Awaitable[T]],
    timeout: float = 30.0,  # noqa: ASYNC109 (a deadline with a message)
    *,
    pause: float = PAUSE,
) -> T:
    """The first truthy value of ``predicate`` (sync or async); AssertionError with the last value after ``timeout`` s."""
    deadline = time.monotonic() + timeout
    while True:
        found = predicate()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s {_name(predicate)} still gives {value!r}")
        await asyncio.sleep(pause)


def eventually_sync(predicate: Callable[[], T], timeout: float = 30.0, *, pause: float = PAUSE) -> T:
    """`eventually` without an event loop. Where a look is dear, a longer ``pause`` leaves the time to what is awaited."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s {_name(predicate)} still gives {value!r}")
        time.sleep(pause)
    return value


def _name(predicate: Callable[..., object]) -> str:
    try:
        return inspect.getsource(predicate).strip()
    except OSError:
        return repr(predicate)
