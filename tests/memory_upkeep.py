"""What maintenance asks of the database and the ready queue, in memory, to be set up by tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.domain.errors import ConflictError, UnavailableError
from stepwell.engine.ports import ReadyRun, Reaped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def ready(name: str) -> ReadyRun:
    return ReadyRun(name, "default", 0)


class Upkeep:
    """The part of an UpkeepStore that a test sets up; every method may be made to fail."""

    def __init__(self) -> None:
        self.beats: dict[int, int] = {}
        self.dead: list[int] = []
        self.orphaned: dict[str, int] = {}
        self.reaped: list[int] = []
        self.due: list[tuple[list[ReadyRun], float | None]] = []
        self.pages: dict[tuple[str, str], tuple[list[ReadyRun], tuple[str, str] | None]] = {}
        self.history: dict[str, tuple[list[str], str | None]] = {}
        self.deleted: list[list[str]] = []
        self.keys: list[int] = []
        self.days: list[str] = []
        self.locked: set[str] = set()
        self.dropped: list[str] = []
        self.calls: list[str] = []
        self.holder: int | None = None
        self.down = False
        self.error: Exception = UnavailableError("down")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.down:
            raise self.error

    async def lead(self, name: str, holder: int, term: float) -> bool:
        self._call("lead")
        self.holder = self.holder or holder
        return self.holder == holder

    async def resign(self, name: str, holder: int) -> None:
        self._call("resign")
        self.holder = None if self.holder == holder else self.holder

    async def counters(self) -> dict[int, int]:
        self._call("counters")
        return {w: n for w, n in self.beats.items() if w not in self.dead}

    async def declare_dead(self, worker: int, counter: int) -> bool:
        self._call("declare_dead")
        if self.beats[worker] != counter:
            return False
        self.dead.append(worker)
        return True

    async def orphans(self) -> dict[str, int]:
        self._call("orphans")
        return dict(self.orphaned)

    async def reap(self, orphans: Mapping[str, int], deaths: int) -> list[Reaped]:
        self._call("reap")
        self.reaped.append(len(orphans))
        for run_id in orphans:
            del self.orphaned[run_id]
        return [
            Reaped(ready(i), "failed" if i == "poison" else "queued", i == "suspect", i == "poison") for i in orphans
        ]

    async def wake_due(self, limit: int) -> tuple[list[ReadyRun], float | None]:
        self._call("wake_due")
        return self.due.pop(0) if self.due else ([], None)

    async def queued_page(self, after: tuple[str, str], limit: int) -> tuple[list[ReadyRun], tuple[str, str] | None]:
        self._call("queued_page")
        return self.pages[after]

    async def stranded(self) -> list[str]:
        self._call("stranded")
        return list(self.orphaned)

    async def wake_stranded(self, ids: Sequence[str]) -> list[ReadyRun]:
        self._call("wake_stranded")
        return [ready(i) for i in ids]

    async def add_partitions(self, days: int) -> int:
        self._call("add_partitions")
        return 0

    async def expired_page(self, after: str, limit: int) -> tuple[list[str], str | None]:
        self._call("expired_page")
        return self.history.get(after, ([], None))

    async def delete_runs(self, ids: Sequence[str]) -> int:
        self._call("delete_runs")
        self.deleted.append(list(ids))
        return len(ids)

    async def delete_keys(self, limit: int) -> int:
        self._call("delete_keys")
        return self.keys.pop(0) if self.keys else 0

    async def past_days(self) -> list[str]:
        self._call("past_days")
        return self.days

    async def drop_day(self, day: str) -> bool:
        self._call("drop_day")
        if day in self.locked:
            raise ConflictError("lock timeout")
        self.dropped.append(day)
        return True

    async def forget_workers(self) -> None:
        self._call("forget_workers")


class Queue:
    """A ready queue that remembers what it was offered; ``marked`` is lost when it is emptied."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.marked = False
        self.away = False
        self.calls = 0

    async def add(self, items: Sequence[ReadyRun]) -> None:
        self.calls += 1
        if self.away:
            raise UnavailableError("away")
        self.added += [item.id for item in items]

    async def mark(self) -> bool:
        if self.away:
            raise UnavailableError("away")
        before, self.marked = self.marked, True
        return before


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 5.0  # soon after the machine was started

    def __call__(self) -> float:
        return self.now
