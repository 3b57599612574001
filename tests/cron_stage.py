"""A stage for cron: workflows on a real database, a clock that the test moves, and leaders that are asked to look."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from protocol import Stage, staged

from stepwell.actions.registry import default_actions
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.schedule_store import PostgresScheduleStore
from stepwell.domain.spec import WorkflowSpec
from stepwell.engine.apply import revision_of
from stepwell.engine.clock import Clock, as_micros
from stepwell.engine.control import Control
from stepwell.engine.maintenance.cron import Cron
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.observer import Silent, Ticked
from stepwell.engine.revisions import Revisions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from protocol import Side

    from stepwell.engine.ports import ReadyRun

STEPS = [{"name": "one", "transform": {"value": "{{ input }}"}}]


class MovedClock(Clock):
    """Stands until it is moved."""

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self.now = now

    def micros(self) -> int:
        return as_micros(self.now)

    def follow(self, database_micros: int, asked: int, answered: int) -> bool:
        return False


class Queue:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.offered: list[str] = []
        self.cancels: list[str] = []

    async def add(self, items: Sequence[ReadyRun]) -> None:
        self.offered += [item.id for item in items]

    async def take(self, n: int) -> list[str]:
        raise NotImplementedError

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - the Protocol's
        raise NotImplementedError

    async def publish_cancel(self, run_ids: Sequence[str]) -> None:
        self.cancels += run_ids


class Notes(Silent):
    """Notes what became of ticks."""

    def __init__(self) -> None:
        self.ticks: list[Ticked] = []

    def ticked(self, triggers: Sequence[Ticked]) -> None:
        self.ticks += triggers

    @property
    def skipped(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for ticked in self.ticks:
            for reason, count in ticked.skipped.items():
                counts[reason] = counts.get(reason, 0) + count
        return counts


@dataclass
class Leader:
    """One leader's cron job."""

    side: Side
    cron: Cron
    queue: Queue
    notes: Notes


@dataclass
class CronStage:
    """``at`` moves the clock; ``pass_time`` has a leader look until it has nothing to do."""

    stage: Stage
    clock: MovedClock
    leaders: list[Leader] = field(default_factory=list)

    async def leader(self, side: Side | None = None) -> Leader:
        """Another leader, beside those there are."""
        side = side or await self.stage.side()
        queue, notes = Queue(), Notes()
        runs = PostgresRunStore(side.session, side.session)
        cron = Cron(
            PostgresScheduleStore(side.session),
            Revisions(runs.revision, default_actions()),
            Offers(queue),
            Control(runs, queue),
            self.clock,
            notes,
        )
        self.leaders.append(Leader(side, cron, queue, notes))
        return self.leaders[-1]

    async def at(self, text: str) -> None:
        """Move the clock, and make the partitions of its day."""
        self.clock.now = datetime.fromisoformat(text).replace(tzinfo=UTC)
        await self.stage.query("SELECT add_partitions(%s::date, 1)", self.clock.now.date())

    async def apply(self, *, name: str = "nightly", suspend: bool = False, **trigger: Any) -> None:
        """Apply a workflow with a cron trigger ``tick``; cron's own fields are among those of the trigger."""
        cron = {key: trigger.pop(key) for key in list(trigger) if key in _CRON_FIELDS}
        await self.apply_spec(name, {"triggers": [{"name": "tick", "cron": cron, **trigger}], "suspend": suspend})

    async def apply_spec(self, name: str, spec: dict[str, Any]) -> None:
        """Apply a workflow at the clock's time."""
        raw = {"steps": STEPS, **spec}
        await self.leaders[0].side.intake.apply(revision_of("shop", name, raw, WorkflowSpec.model_validate(raw)))
        await self.stage.query("UPDATE schedule_changes SET changed_at = %s", self.clock.now)

    async def look(self, leader: Leader | None = None) -> float:
        """Look until nothing is to be done; the seconds until the next look."""
        leader = leader or self.leaders[0]
        for _ in range(200):
            pause = await leader.cron.run()
            if pause:
                return pause
        raise AssertionError("the leader never comes to rest")

    async def runs(self, name: str = "nightly") -> list[str]:
        """The scheduled times of the runs that were started, in order, as the input has them."""
        rows = await self.stage.query(
            "SELECT r.input_data FROM runs r JOIN workflows w ON w.id = r.workflow_id"
            " WHERE w.name = %s ORDER BY r.input_data->>'at'", name
        )  # fmt: skip
        return [row["input_data"]["at"] for row in rows]

    async def ticks(self) -> list[tuple[str, str | None]]:
        """The recorded ticks, with the reason where none started."""
        rows = await self.stage.query("SELECT tick_at, reason FROM schedule_ticks ORDER BY tick_at")
        return [(f"{row['tick_at'].astimezone(UTC):%m-%dT%H:%M}", row["reason"]) for row in rows]

    async def next_tick(self) -> str | None:
        """The next tick of the only schedule."""
        rows = await self.stage.query("SELECT tick_at FROM schedules")
        assert len(rows) <= 1
        return f"{rows[0]['tick_at'].astimezone(UTC):%m-%dT%H:%M}" if rows else None

    async def active(self) -> int:
        """The id of the active revision."""
        (row,) = await self.stage.query("SELECT active_revision_id AS id FROM workflows WHERE name = 'nightly'")
        return int(row["id"])

    async def end(self, run_id: str) -> None:
        """Let a queued run succeed."""
        await self.stage.query(
            "UPDATE runs SET status = 'succeeded', finished_at = now(), expires_at = now() + interval '1 day'"
            " WHERE id = %s", run_id
        )  # fmt: skip


_CRON_FIELDS = frozenset({"schedule", "timeZone", "concurrencyPolicy", "missedRuns", "startingDeadline", "jitter"})

AT = {"input": {"at": "{{ trigger.scheduledTime }}"}}
"""The trigger's input is the scheduled time."""


@contextlib.asynccontextmanager
async def cron_stage(dsn: str, now: str) -> AsyncIterator[CronStage]:
    """A stage whose clock stands at ``now``, with one leader."""
    async with staged(dsn) as stage:
        found = CronStage(stage, MovedClock(datetime.now(UTC)))
        await found.at(now)
        await found.leader()
        yield found
