"""What the leader exchanges with the store of schedules. Moments are integer microseconds of the database's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stepwell.engine.ports import NewRun


class DueSchedule(NamedTuple):
    """A cron trigger whose tick ``tick_at`` is due; runs of ticks before ``live_since`` have ended (None: not known)."""

    workflow_id: int
    trigger: str
    revision_id: int
    tick_at: int
    live_since: int | None


class Look(NamedTuple):
    """What is to be done: bring schedules up to date, fire what is due; ``next_at``: when the next one is due; ``clock``: the
    database's time.
    """

    changed: bool
    due: list[DueSchedule]
    next_at: int | None
    clock: int


class ScheduleChange(NamedTuple):
    """A workflow whose schedules are not up to date. ``triggers``: a JSON list of its cron triggers, None without any."""

    workflow_id: int
    number: int
    changed_at: int
    namespace: str
    workflow: str
    revision_id: int
    triggers: str | None


class NewSchedule(NamedTuple):
    """A cron trigger's next tick. Where ``timing`` is what stands already, the tick that stands stays."""

    workflow_id: int
    trigger: str
    revision_id: int
    timing: str
    tick_at: int | None
    due_at: int | None


class Move(NamedTuple):
    """From the tick that a schedule stood at to the next one."""

    workflow_id: int
    trigger: str
    revision_id: int
    was_at: int
    tick_at: int | None
    due_at: int | None
    live_since: int | None


@dataclass(frozen=True, slots=True)
class Tick:
    """What becomes of a tick: a run, or a reason why not."""

    workflow_id: int
    trigger: str
    tick_at: int
    run: NewRun | None = None
    reason: str | None = None
    message: str | None = None


class Fired(NamedTuple):
    """The answer to a batch. ``moved``: the (workflow, trigger) that still stood where they were read; nothing was done for
    others. ``started``: the (workflow, trigger, tick) whose run is new.
    """

    moved: set[tuple[int, str]]
    started: set[tuple[int, str, int]]


class TickRow(NamedTuple):
    """A tick that was decided on, with the run that it led to."""

    workflow_id: int
    trigger: str
    tick_at: int
    decided_at: int
    run_id: str | None


class ScheduleStore(Protocol):
    """Where schedules and ticks are kept. Raises UnavailableError; then it is unknown whether something was done, and it
    may be done again.
    """

    async def look(self, now: int, limit: int, unsupported: Sequence[int]) -> Look:
        """What is to be done at ``now``: at most ``limit`` due schedules, none of the unsupported revisions."""

    async def has_partition(self, day: str) -> bool:
        """Whether runs of this day (YYYYMMDD) have a place."""

    async def changes(self, after: int, limit: int) -> list[ScheduleChange]:
        """Changes with a number above ``after``, in order."""

    async def bring_up_to_date(self, changes: Mapping[int, int], schedules: Sequence[NewSchedule]) -> int:
        """Give these workflows (with the number of the change that was seen) exactly these schedules. What changed again
        since, or is being changed, is left alone; how many were not.
        """

    async def started(
        self, schedules: Sequence[DueSchedule], limit: int
    ) -> dict[tuple[int, str], list[tuple[int, str]]]:
        """The (tick, run) that each of these schedules started since its ``live_since``, newest first."""

    async def live(self, ids: Sequence[str]) -> set[str]:
        """Those of these runs that have not ended."""

    async def fire(self, now: int, moves: Sequence[Move], ticks: Sequence[Tick]) -> Fired:
        """Record ticks, accept their runs and move their schedules on, in one transaction; only for schedules that stand
        where they were read. Raises DataRefusedError where a row was refused: then nothing was done.
        """

    async def old_ticks(self, before: int, after: TickRow, limit: int) -> list[TickRow]:
        """A page of the ticks that were decided on before a moment, behind the row ``after``."""

    async def delete_ticks(self, ticks: Sequence[TickRow]) -> None:
        """Forget these ticks."""
