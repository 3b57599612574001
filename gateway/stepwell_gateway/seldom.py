"""A log that says the same at most now and then, however many requests meet it."""

from __future__ import annotations

import logging

PERIOD = 10.0  # seconds


class Seldom(logging.Filter):
    """Lets one record through in each period, with how many were left out since the last one."""

    def __init__(self, period: float = PERIOD) -> None:
        super().__init__()
        self._period = period
        self._next = 0.0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        if record.created < self._next:
            self._left_out += 1
            return False
        if self._left_out:
            record.msg = f"{record.getMessage()} ({self._left_out} times more since it was last said)"
            record.args = ()
        self._next, self._left_out = record.created + self._period, 0
        return True
