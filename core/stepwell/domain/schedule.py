"""When a cron schedule is due: at every whole minute whose wall time in the schedule's zone matches its five fields.

So a wall time that a change of clocks leaves out is not due at all, and one that comes twice is due twice, as it is for a
Kubernetes CronJob. The fields are cronsim's, which walks wall times only; what these mean in a zone is said here (ADR 19).
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

if TYPE_CHECKING:
    from collections.abc import Iterator

HORIZON = timedelta(days=366 * 50)  # what is not due within it never is
EPOCH = datetime(2020, 1, 1, tzinfo=UTC)  # from which a schedule is asked whether it is ever due

_MINUTE = timedelta(minutes=1)
_SECOND = timedelta(seconds=1)
_STRIDE = timedelta(days=1)  # no zone changes its clocks twice within it


class ScheduleError(ValueError):
    """The five fields are no schedule, or one that is never due; the message tells which part."""


class Schedule:
    """Five cron fields in a time zone. Moments are aware datetimes, and answers are in UTC.

    Raises ScheduleError where the fields do not parse.
    """

    __slots__ = ("_fields", "_zone")

    def __init__(self, fields: str, zone: str = "UTC") -> None:
        self._fields = " ".join("*" if field == "?" else field for field in fields.split())
        self._zone = ZoneInfo(zone)
        try:
            CronSim(self._fields, datetime(2020, 1, 1))  # noqa: DTZ001 - wall time
        except CronSimError as exc:
            raise ScheduleError(_explain(str(exc))) from exc

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """Every moment later than ``after`` at which it is due, in order; ends where it is never due again."""
        end = after + HORIZON
        moment = after.astimezone(UTC)
        wall = moment.astimezone(self._zone).replace(tzinfo=None)
        while True:
            offset = self._offset(moment)
            change = None
            for due in CronSim(self._fields, wall):
                tick = (due - offset).replace(tzinfo=UTC)
                change = self._change(moment, min(tick, end), offset)
                if change is not None or tick > end:
                    break
                yield tick
                moment = tick
            if change is None:
                return
            moment = change
            wall = change.astimezone(self._zone).replace(tzinfo=None) - _SECOND  # the change itself may be due

    def after(self, moment: datetime) -> datetime | None:
        """The first tick later than ``moment``, None where there is none."""
        return next(self.ticks(moment), None)

    def latest(self, first: datetime, until: datetime, limit: int) -> list[datetime]:
        """The latest ``limit`` ticks of those in [first, until], in order.

        The time may hold millions of ticks: it goes back from ``until`` in steps that double until there are enough.
        """
        span = limit * _MINUTE
        while True:
            start = max(first, until - span)
            found = deque(self._between(start, until), maxlen=limit)
            if len(found) == limit or start == first:
                return list(found)
            span *= 2

    def _between(self, first: datetime, until: datetime) -> Iterator[datetime]:
        for tick in self.ticks(first - _SECOND):
            if tick > until:
                return
            if tick >= first:
                yield tick

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self._zone).utcoffset() or timedelta(0)

    def _change(self, start: datetime, end: datetime, offset: timedelta) -> datetime | None:
        """The first moment in (start, end] at which the zone's offset is no longer this one; to the second."""
        while start < end:
            later = min(start + _STRIDE, end)
            if self._offset(later) != offset:
                return self._moment_of_change(start.replace(microsecond=0), later, offset)
            start = later
        return None

    def _moment_of_change(self, before: datetime, behind: datetime, offset: timedelta) -> datetime:
        behind = behind.replace(microsecond=0)
        while behind - before > _SECOND:
            middle = before + (behind - before) // (2 * _SECOND) * _SECOND
            if self._offset(middle) == offset:
                before = middle
            else:
                behind = middle
        return behind


@lru_cache(maxsize=4096)
def check(fields: str, zone: str = "UTC") -> None:
    """Raise ScheduleError unless this is a schedule that is due at some time."""
    if Schedule(fields, zone).after(EPOCH) is None:
        message = f"it is never due in {zone}"
        raise ScheduleError(message)


def _explain(message: str) -> str:
    """Cronsim's ``Bad day-of-month`` in our words."""
    part = message.removeprefix("Bad ").replace("day-of-month", "day of month").replace("day-of-week", "weekday")
    return f"its {part} is not valid, or never comes"
