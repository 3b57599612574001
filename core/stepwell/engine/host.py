"""What an execution needs of its worker."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from stepwell.domain.approval_links import ApprovalLinks
from stepwell.engine.ports import Kept

if TYPE_CHECKING:
    from stepwell.engine.execution import Execution


class Host(Protocol):
    """While ``draining``, no effect starts and runs are handed back."""

    draining: bool
    links: ApprovalLinks | None

    def micros(self) -> int:
        """The time."""

    def dirty(self, execution: Execution) -> None:
        """Have the journal collect this run's entry with its next flush."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run an effect."""

    def later(self, delay: float, execution: Execution) -> asyncio.TimerHandle:
        """Advance the run again after ``delay`` seconds."""

    def may_act(self) -> bool:
        """Whether this worker is surely alive in the eyes of the others, so that it may start an effect."""

    def left(self, execution: Execution, kept: Kept | None) -> None:
        """The run left this worker: ended, parked, or (None) lost to another."""

    def idle(self, execution: Execution) -> None:
        """The run has nothing left to execute; only its last flush is awaited."""
