"""The database's clock, as a process follows it between two looks.

Wall times that are stored or compared with stored ones are integer microseconds since 1970, taken from here: the
process's monotonic clock plus the offset that was learnt at connect. A step of the machine's own wall clock changes
nothing.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

NEWS = 1_000_000  # microseconds by which the clock may be wrong before it follows the database's again

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock:
    """``micros()`` is the wall time of the database in microseconds."""

    def __init__(self) -> None:
        self._offset = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def learn(self, database_micros: int, asked: int, answered: int) -> None:
        """Take the database's answer to a question; ``asked`` and ``answered`` as of ``time.monotonic_ns()``."""
        self._offset = database_micros - (asked + answered) // 2000

    def follow(self, database_micros: int, asked: int, answered: int) -> bool:
        """Learn only what is news: that the database's clock was set, or that this machine slept; whether it was."""
        away = database_micros - (asked + answered) // 2000 - self._offset
        if abs(away) <= NEWS + (answered - asked) // 2000:
            return False
        self.learn(database_micros, asked, answered)
        return True

    def micros(self) -> int:
        """Now."""
        return time.monotonic_ns() // 1000 + self._offset


def as_datetime(micros: int) -> datetime:
    """The same moment as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def as_micros(moment: datetime) -> int:
    """An aware datetime in microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def as_text(micros: int) -> str:
    """The same moment in RFC 3339 with microseconds."""
    return as_datetime(micros).isoformat().replace("+00:00", "Z")
