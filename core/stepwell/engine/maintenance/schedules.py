"""Keeps the schedules in step with the workflows: a row for each cron trigger of an active revision."""

from __future__ import annotations

import logging
from datetime import datetime

import orjson
from pydantic import ValidationError

from stepwell.domain.ticks import Timing, Waiting
from stepwell.domain.triggers import Trigger
from stepwell.engine.clock import as_datetime, as_micros
from stepwell.engine.schedules import NewSchedule, ScheduleChange, ScheduleStore

PAGE = 200  # workflows; ten thousand that are applied at once take fifty statements

log = logging.getLogger(__name__)


class ScheduleSync:
    """Level-triggered: the database lists the workflows whose schedules are not up to date, whoever changed them."""

    def __init__(self, store: ScheduleStore) -> None:
        self._store = store
        self._after = 0
        self._told: set[int] = set()

    def reset(self) -> None:
        """Begin with the oldest change."""
        self._after = 0

    async def run(self) -> bool:
        """Work on a page of changes; whether one of them could be dealt with."""
        changes = await self._store.changes(self._after, PAGE)
        self._after = changes[-1].number if len(changes) == PAGE else 0
        schedules: list[NewSchedule] = []
        understood: dict[int, int] = {}
        for change in changes:
            try:
                schedules += schedules_of(change)
            except ValidationError:
                self._tell(change)
                continue
            understood[change.workflow_id] = change.number
        return bool(understood) and await self._store.bring_up_to_date(understood, schedules) > 0

    def _tell(self, change: ScheduleChange) -> None:
        """A newer version's trigger is left to a leader of that version."""
        if change.number not in self._told:
            self._told.add(change.number)
            message = (
                "the schedules of %s/%s are not understood by this version; a newer worker sees to them when it leads"
            )
            log.warning(message, change.namespace, change.workflow)


def schedules_of(change: ScheduleChange) -> list[NewSchedule]:
    """The schedules that a workflow shall have, counted from its change. Raises ValidationError."""
    triggers = [Trigger.model_validate(item) for item in orjson.loads(change.triggers or b"[]")]
    return [_schedule(change, trigger, as_datetime(change.changed_at)) for trigger in triggers]


def identity(namespace: str, workflow: str, trigger: str) -> str:
    """What tells a schedule's jitter from others'."""
    return f"{namespace}/{workflow}/{trigger}"


def _schedule(change: ScheduleChange, trigger: Trigger, since: datetime) -> NewSchedule:
    cron = trigger.cron
    if cron is None:
        message = f"the trigger {trigger.name} is no cron trigger"
        raise ValueError(message)
    first = Timing(cron, identity(change.namespace, change.workflow, trigger.name)).first(since)
    timing = f"{' '.join(cron.schedule.split())} {cron.time_zone} {cron.jitter or 0:g}"
    return NewSchedule(change.workflow_id, trigger.name, change.revision_id, timing, *moments(first))


def moments(waiting: Waiting | None) -> tuple[int | None, int | None]:
    """A tick and when it is due, in microseconds."""
    return (None, None) if waiting is None else (as_micros(waiting.tick), as_micros(waiting.due))
