"""How many runs each workflow has: a ledger that reads no run twice once it has ended.

Ids of runs are in the order of their creation, and what has ended never changes. So the ledger reads history once, up to
some seconds ago; from there on it looks at what is new, and by id at those that were live. Ended runs are numbers by the
moment until which they are retained. A run whose id is older than its row (a tick that was missed, say) is found by the
next ledger, which is made every hour.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell.adapters.postgres.resource_store import RunGroup

FIRST = "00000000-0000-0000-0000-000000000000"
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
WORDS = {
    "queued": "Queued",
    "running": "Running",
    "waiting": "Waiting",
    "succeeded": "Succeeded",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "timed_out": "TimedOut",
}


@dataclass(frozen=True, slots=True)
class RunCounts:
    """A workflow's runs; ``last`` is the id and status of the latest one. ``failed`` are all that did not succeed."""

    active: int = 0
    succeeded: int = 0
    failed: int = 0
    last: tuple[str, str] | None = None

    def document(self) -> dict[str, Any]:
        """As ``status.runs`` shows it."""
        shown: dict[str, Any] = {"active": self.active, "succeeded": self.succeeded, "failed": self.failed}
        if self.last is not None:
            created = datetime.fromtimestamp(int(self.last[0].replace("-", "")[:12], 16) / 1000, UTC)
            shown |= {
                "lastRunTime": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "lastRunId": self.last[0],
                "lastRunStatus": WORDS[self.last[1]],
            }
        return shown


@dataclass(slots=True)
class Tally:
    """One workflow's: ended runs by the Unix time until which they are counted."""

    active: int = 0
    succeeded: Counter[int] = field(default_factory=Counter)
    failed: Counter[int] = field(default_factory=Counter)
    last: tuple[str, str] | None = None

    def add(self, group: RunGroup) -> None:
        """Count ended runs, or one live one."""
        if group.until is None:
            self.active += group.number
        else:
            (self.succeeded if group.status == "succeeded" else self.failed)[group.until] += group.number
        self.saw(group.last, group.status)

    def saw(self, run_id: str, status: str) -> None:
        """A run of it has this status."""
        if self.last is None or run_id >= self.last[0]:
            self.last = (run_id, status)

    def forget(self, now: float) -> None:
        """Let go of what is not retained any more."""
        for ended in (self.succeeded, self.failed):
            for until in [until for until in ended if until <= now]:
                del ended[until]


class Ledger:
    """All workflows' tallies. ``after``: the last id whose run was taken in for good; ``live``: those to look at again."""

    def __init__(self) -> None:
        self.after = FIRST
        self.live: dict[str, int] = {}
        self._settled: dict[int, Tally] = {}
        self._recent: dict[int, Tally] = {}

    def settle(self, groups: Iterable[RunGroup]) -> None:
        """Take in runs that were not seen before."""
        for group in groups:
            self._settled.setdefault(group.workflow_id, Tally()).add(group)
            if group.until is None:
                self.live[group.last] = group.workflow_id

    def recent(self, groups: Iterable[RunGroup]) -> None:
        """What came after ``after``, in place of what was said of that before."""
        self._recent = {}
        for group in groups:
            self._recent.setdefault(group.workflow_id, Tally()).add(group)

    def look_again(self, asked: Iterable[str], groups: Iterable[RunGroup]) -> None:
        """Live runs as they are now; one without an answer is no longer in the history."""
        found = {group.last: group for group in groups}
        for run_id in asked:
            group = found.get(run_id)
            tally = self._settled[self.live[run_id]]
            if group is not None and group.until is None:
                tally.saw(run_id, group.status)
                continue
            del self.live[run_id]
            tally.active -= 1
            if group is not None:
                tally.add(group)

    def counts(self, workflow: int, now: float) -> RunCounts:
        """A workflow's runs at this moment."""
        settled, recent = self._settled.get(workflow), self._recent.get(workflow)
        tallies = [tally for tally in (settled, recent) if tally is not None]
        for tally in tallies:
            tally.forget(now)
        last = max((tally.last for tally in tallies if tally.last is not None), default=None)
        return RunCounts(
            active=sum(tally.active for tally in tallies),
            succeeded=sum(tally.succeeded.total() for tally in tallies),
            failed=sum(tally.failed.total() for tally in tallies),
            last=last,
        )
