"""Which ticks of a schedule start a run, and when: pure, from the trigger, the first tick not yet decided, and the time.

A tick is *pending* from its moment on and *due* after its jitter. One that is over a minute late, and was due before the leader
began to look, was *missed*: nobody was there for it. Ticks on time start; what becomes of missed ones is the trigger's
``missedRuns``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING

from stepwell.domain.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.domain.triggers import Cron

ON_TIME = timedelta(seconds=60)  # another leader takes over within 15 s, and cron counts in minutes
MOST = 1_000  # missed ticks of a schedule that `All` makes up for; older ones are skipped, and counted up to this

MISSED = "Missed"
DEADLINE = "DeadlineExceeded"


@dataclass(frozen=True, slots=True)
class Decision:
    """``starts``: the ticks that start a run now, in order. ``skipped``: how many do not, by reason. ``next``: the first tick
    to decide on later and when it is due, None where there is none.
    """

    starts: tuple[datetime, ...]
    next: Waiting | None
    skipped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A tick and the moment when it is due, its jitter included."""

    tick: datetime
    due: datetime


class Timing:
    """The clock's part of a cron trigger; ``identity`` tells schedules apart, so that each has a jitter of its own."""

    def __init__(self, cron: Cron, identity: str) -> None:
        self.schedule = Schedule(cron.schedule, cron.time_zone)
        self._identity = identity
        self._jitter = timedelta(seconds=cron.jitter or 0)
        self._deadline = None if cron.starting_deadline is None else timedelta(seconds=cron.starting_deadline)
        # Of several runs at once `Forbid` lets one start and `Replace` leaves one: that is the latest.
        self._missed = (
            "Latest" if cron.missed_runs == "All" and cron.concurrency_policy != "Allow" else cron.missed_runs
        )
        self._alone = cron.concurrency_policy != "Allow"

    def first(self, after: datetime) -> Waiting | None:
        """The first tick later than ``after``."""
        tick = self.schedule.after(after)
        return None if tick is None else self.waiting(tick)

    def waiting(self, tick: datetime) -> Waiting:
        """The tick with its due time: the same whoever asks, and never beyond the next tick."""
        if not self._jitter:
            return Waiting(tick, tick)
        following = self.schedule.after(tick)
        room = self._jitter if following is None else min(self._jitter, following - tick)
        digest = hashlib.sha256(f"{self._identity}@{tick.isoformat()}".encode()).digest()
        return Waiting(tick, tick + room * (int.from_bytes(digest[:6]) / 2**48))

    def decide(self, first: datetime, now: datetime, batch: int, watched: datetime | None = None) -> Decision:
        """What to do at ``now`` where ``first`` is the first tick not decided yet; at most ``batch`` starts.

        ``watched``: since when the leader has looked without a pause, so that its own backlog makes no tick a missed one.
        """
        pending = self.schedule.latest(first, now, MOST + 1)
        if pending and (last := self.waiting(pending[-1])).due > now:
            following: Waiting | None = last
            pending.pop()
        else:
            following = self.first(now if pending else first - timedelta(seconds=1))
        expired = self._expired(pending, now)
        left = pending[expired:]
        chosen = self._chosen(left, min(now - ON_TIME, watched or now))
        skipped = {DEADLINE: expired, MISSED: len(left) - len(chosen)}
        if len(chosen) > batch:
            following = self.waiting(chosen[batch])
            chosen = chosen[:batch]
        return Decision(tuple(chosen), following, {reason: count for reason, count in skipped.items() if count})

    def _expired(self, pending: Sequence[datetime], now: datetime) -> int:
        """How many of the pending ticks are later than the deadline allows; they are the first."""
        if self._deadline is None:
            return 0
        oldest = now - self._deadline
        return sum(1 for _ in takewhile(lambda tick: self.waiting(tick).due < oldest, pending))

    def _chosen(self, pending: Sequence[datetime], present: datetime) -> Sequence[datetime]:
        """Those of the pending ticks that start, in order; on time are those that were due from ``present`` on."""
        if self._missed == "All":
            return pending[-MOST:]
        on_time = [*takewhile(lambda tick: self.waiting(tick).due >= present, reversed(pending))][::-1]
        if on_time:
            return on_time[-1:] if self._alone else on_time
        return pending[-1:] if self._missed == "Latest" else ()
