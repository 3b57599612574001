"""How long a worker may believe that the others still see it alive."""

from __future__ import annotations

import time

WINDOW = 15.0  # seconds; the leader declares a worker dead only after watching it stand still for 20


class Trust:
    """Confirmed by every heartbeat, anchored at its *start*: a slow answer cannot stretch it.

    Read by the event loop and written by the heartbeat's thread; both are single assignments.
    """

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._until = 0.0

    def confirm(self, began: float) -> None:
        """A heartbeat that began at ``began`` (``time.monotonic()``) was answered."""
        self._until = began + self._window

    def revoke(self) -> None:
        """The worker was declared dead."""
        self._until = 0.0

    def holds(self) -> bool:
        """Whether an effect may start now."""
        return time.monotonic() < self._until
