"""Ctrl-C and SIGTERM within an event loop: the first is a request, the second an order."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, TypeVar

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Interrupts:
    """Cancels the task that made it; while ``patient``, only sets ``asked`` the first time."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.patient = False
        self.number = 0
        self._task = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._struck, number)

    def _struck(self, number: int) -> None:
        self.number = number
        if self.patient and not self.asked.is_set():
            self.asked.set()
        elif self._task is not None:
            self._task.cancel()


def run_interruptible(main: Callable[[Interrupts], Coroutine[None, None, int]]) -> int:
    """Run a command's coroutine; its exit code, or 128 and the number of the signal that ended it."""

    async def guarded() -> int:
        interrupts = Interrupts()
        try:
            return await main(interrupts)
        except asyncio.CancelledError:
            if not interrupts.number:
                raise
            return 128 + interrupts.number

    return uvloop.run(guarded())
