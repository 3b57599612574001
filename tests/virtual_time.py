"""An event loop whose clock jumps: nothing is waited for, and an hour takes no time."""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")

EPOCH = 1_800_000_000_000_000  #: microseconds since 1970 at the start of every test
TURNS = 5_000  #: of the loop without any time passing, after which a test counts as running in circles


class _Selector(selectors.SelectSelector):
    """Where the loop would sleep, its clock moves on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.turns = 0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        self.turns = self.turns + 1 if timeout == 0 else 0
        if self.turns > TURNS:
            raise AssertionError(f"the loop turns in circles at {self.now:.3f} s")
        if not found:
            if timeout is None:
                raise AssertionError("everything waits, and nothing will ever happen")
            self.now += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at 0 seconds."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class VirtualClock:
    """The engine's clock in the running virtual loop."""

    def micros(self) -> int:
        return EPOCH + round(asyncio.get_running_loop().time() * 1e6)


def run_virtual(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The coroutine's result; fails where it leaves tasks behind or an exception was lost."""
    lost: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: lost.append(context))
        result = runner.run(_guarded(coroutine))
    assert not lost, f"exceptions that nobody took: {lost}"
    return result


async def _guarded(coroutine: Coroutine[Any, Any, Any]) -> Any:
    result = await coroutine
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, others = await asyncio.wait(others, timeout=1.0)
    assert not others, f"the test left tasks behind: {sorted(map(repr, others))}"
    return result


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an ``async def`` test in a virtual loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return run


async def turns(count: int = 20) -> None:
    """Let everything that can happen at this moment happen."""
    for _ in range(count):
        await asyncio.sleep(0)
