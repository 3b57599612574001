"""What is done for WorkflowRuns: runs are started and cancelled, statuses written, objects deleted and forgotten."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from stepwell.domain.documents import check
from stepwell.domain.errors import (
    DataRefusedError,
    DocumentError,
    InputError,
    ManifestError,
    NotFoundError,
    StepwellError,
)
from stepwell.engine.crashpoints import crashpoint
from stepwell.engine.intake import Start, SuspendedError
from stepwell_operator.events import Subject
from stepwell_operator.runs.cluster import GoneError
from stepwell_operator.runs.decide import SHORTEST, Decision, Do, Track, may_show, wall_clock
from stepwell_operator.runs.objects import END, RANKS
from stepwell_operator.runs.status import Situation, shown_after, situation_of, status_of, without_documents

if TYPE_CHECKING:
    from datetime import date, datetime

    from stepwell.adapters.postgres.run_objects import RunDetails, StepAttempt
    from stepwell.engine.ports import Accepted
    from stepwell_operator.runs.cluster import Cluster
    from stepwell_operator.runs.objects import RunObject

GRACE = 30.0  # seconds that a WorkflowRun waits for its Workflow: both may come in one `kubectl apply`
RETRY = 1.0  # seconds between two tries of a start that something hinders
DOUBT = 35.0  # seconds after which a start whose answer was lost is committed or never will be
REFUSALS = 3  # tries of a start whose row the database refuses
MAX_INPUT = 64 * 1024  # bytes
WRITES = 16  # to the API server at once
DAY_KNOWN = 60.0  # seconds that the partitions of a past day are believed to be there
WARNINGS = frozenset({"Failed", "TimedOut", "InvalidInput", "WorkflowNotFound", "Expired"})

log = logging.getLogger(__name__)


class Starts(Protocol):
    """Intake."""

    async def start(self, start: Start) -> Accepted:
        """Accept one run; returns once it is durable."""


class Cancels(Protocol):
    """Control."""

    async def cancel(self, namespace: str, ids: Sequence[str]) -> dict[str, str]:
        """Acknowledge the cancel of live runs of a namespace."""


class Records(Protocol):
    """The database, as acts read and write it beside starts and cancels."""

    async def details(self, ids: Sequence[str]) -> dict[str, tuple[RunDetails, list[StepAttempt]]]:
        """The runs that exist with their steps, by id."""

    async def forget(self, uids: Sequence[str]) -> None:
        """Forget objects that are gone."""

    async def make_days(self, days: Sequence[date]) -> None:
        """Make the partitions of these days where they are missing."""


class Tells(Protocol):
    """Events of the cluster."""

    def post(self, subject: Subject, reason: str, message: str, *, warning: bool = False) -> None:
        """Post an event soon."""


class Counts(Protocol):
    """Metrics."""

    def status_write(self, kind: str, result: str) -> None:
        """A status was ``written``, or that ``failed``."""


@dataclass(slots=True)
class RunActs:
    """`Acts` of the follower. ``base_url`` is where the gateway is reached."""

    intake: Starts
    control: Cancels
    records: Records
    cluster: Cluster
    events: Tells
    metrics: Counts
    base_url: str = ""
    monotonic: Callable[[], float] = time.monotonic
    _days: dict[date, float] = field(default_factory=dict)
    _writing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WRITES))

    async def act(self, do: Do, tracks: Sequence[Track], decisions: Sequence[Decision]) -> float:
        """See Acts."""
        if do is Do.START:
            return max([await self._start(track, track.obj) for track in tracks if track.obj is not None])
        if do is Do.CANCEL:
            await self.control.cancel(tracks[0].namespace, [track.run_id for track in tracks])
            crashpoint("run_object_after_cancel")
        elif do is Do.SHOW:
            await self._show(tracks, decisions)
        elif do is Do.DELETE:
            await asyncio.gather(*[self._delete(track) for track in tracks])
        elif do is Do.FORGET:
            await self.records.forget([track.uid for track in tracks])
        return SHORTEST

    # -- starting --------------------------------------------------------------------------------------------------

    async def _start(self, track: Track, obj: RunObject) -> float:
        try:
            if track.accepted:  # its run was lost with the commits that a failover cost; its input is not held any more
                obj = await self.cluster.read(obj)
            start = _start_of(obj)
            await self._make_day(obj.created_at)
            await self.intake.start(start)
        except GoneError:
            track.gone = True
            return SHORTEST
        except StepwellError as exc:
            self._hindered(track, obj, exc)
            return RETRY
        crashpoint("run_object_after_commit")
        track.has_run()
        return SHORTEST

    def _hindered(self, track: Track, obj: RunObject, exc: StepwellError) -> None:
        """Note why there is no run yet, or never will be."""
        now = self.monotonic()
        track.hindrance = f"not started yet: {exc}"
        if isinstance(exc, NotFoundError):
            track.missing_since = now if track.missing_since is None else track.missing_since
            why = f"{exc} whose spec was ever valid (kubectl describe swf {obj.workflow})"
            if now - track.missing_since >= GRACE:
                track.refused = Situation("WorkflowNotFound", why)
            track.hindrance = f"waits up to {GRACE:g} s for its workflow: {why}"
            return
        track.missing_since = None
        if isinstance(exc, InputError | DocumentError):
            track.refused = Situation("InvalidInput", str(exc))
        elif isinstance(exc, DataRefusedError):
            self._refused(track, exc)
        elif not isinstance(exc, SuspendedError | ManifestError):
            track.doubt_until = now + DOUBT

    def _refused(self, track: Track, exc: DataRefusedError) -> None:
        """The row's fault, unless the partition of a past day was dropped again since it was made."""
        track.refusals += 1
        self._days.clear()
        if track.refusals >= REFUSALS:
            track.refused = Situation("InvalidInput", f"the database refused the run: {exc}")

    async def _make_day(self, created_at: datetime) -> None:
        """A run's id holds the time of its object; this may be older than the partitions that are kept ready."""
        day, now = created_at.date(), self.monotonic()
        if abs(wall_clock() - created_at) < timedelta(days=1) or now - self._days.get(day, -DAY_KNOWN) < DAY_KNOWN:
            return
        await self.records.make_days([day])
        self._days[day] = now

    # -- showing ---------------------------------------------------------------------------------------------------

    async def _show(self, tracks: Sequence[Track], decisions: Sequence[Decision]) -> None:
        ids = [track.run_id for track, choice in zip(tracks, decisions, strict=True) if choice.situation is None]
        found = await self.records.details(ids) if ids else {}
        writes = []
        for track, choice in zip(tracks, decisions, strict=True):
            situation = choice.situation or (situation_of(*found[track.run_id]) if track.run_id in found else None)
            if situation is not None and self._worth_it(track, situation):
                writes.append(self._write(track, situation))
        for problem in await asyncio.gather(*writes, return_exceptions=True):
            if problem is not None:
                raise problem

    def _worth_it(self, track: Track, situation: Situation) -> bool:
        """Asked again: the run may have gone on since it was looked at."""
        return situation.finished or may_show(track, RANKS[situation.reason], self.monotonic())

    async def _write(self, track: Track, situation: Situation) -> None:
        obj, now = track.obj, wall_clock()
        if obj is None:
            return
        status = status_of(obj, situation, now, self.base_url)
        crashpoint("run_object_before_status")
        try:
            async with self._writing:
                track.version = await self._shown(track, obj, status)
        except GoneError:
            track.gone = True
            return
        except StepwellError:
            self.metrics.status_write("WorkflowRun", "failed")
            raise
        self.metrics.status_write("WorkflowRun", "written")
        crashpoint("run_object_after_status")
        track.written += 1
        track.rank = END if situation.finished else RANKS[situation.reason]
        if track.obj is not None:
            track.obj = replace(track.obj, shown=shown_after(obj.shown, situation, now))
        self._tell(obj, situation)

    async def _shown(self, track: Track, obj: RunObject, status: dict[str, Any]) -> str:
        try:
            return await self.cluster.show(obj, track.version, status)
        except DataRefusedError as exc:
            log.warning("%s", exc)
            return await self.cluster.show(obj, track.version, without_documents(status, obj, self.base_url, str(exc)))

    def _tell(self, obj: RunObject, situation: Situation) -> None:
        """At most two Events a run: that it was started, if that is shown before its end, and how it ended."""
        subject = Subject("WorkflowRun", obj.namespace, obj.name, obj.uid)
        if situation.finished:
            message = situation.message or f"run {obj.run_id} ended"
            self.events.post(subject, situation.reason, message, warning=situation.reason in WARNINGS)
        elif situation.run is not None and not obj.shown.started:
            self.events.post(subject, "Started", f"started run {obj.run_id} of workflow {obj.workflow}")

    # -- deleting --------------------------------------------------------------------------------------------------

    async def _delete(self, track: Track) -> None:
        crashpoint("run_object_before_deletion")
        if track.obj is not None:
            async with self._writing:
                await self.cluster.delete(track.obj)
            track.gone = True


def _start_of(obj: RunObject) -> Start:
    """Its door is the object's uid. Raises InputError or DocumentError where the input is too large, or cannot be stored."""
    value = obj.input if obj.input is not None else {}
    check(value, what="spec.input")
    size = len(orjson.dumps(value))
    if size > MAX_INPUT:
        message = f"spec.input has {size} bytes; at most {MAX_INPUT} are possible. Pass a reference instead"
        raise InputError(message)
    return Start(
        obj.namespace,
        obj.workflow,
        value,
        trigger=obj.uid,
        priority=obj.priority,
        run_id=obj.run_id,
        run_object=obj.name,
    )
