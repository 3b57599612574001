"""What to do about a WorkflowRun: a pure function of what is known of it, looked at again and again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

from stepwell.domain.states import RunStatus
from stepwell_operator.runs.objects import END, RANKS
from stepwell_operator.runs.status import REASONS, Situation

if TYPE_CHECKING:
    from stepwell.adapters.postgres.run_objects import RunState
    from stepwell_operator.runs.objects import RunObject

WRITES = 4  # to the API server a run, Events apart
SETTLE = 0.5  # seconds after which a state that is no end is worth a write; most runs are over by then
SHORTEST, LONGEST = 0.25, 1.0  # seconds between two looks at a live run
AGEING = 20.0  # a look waits for this part of the time since the object came, within these bounds

CANCELLED = Situation("Cancelled", "cancelled before a run was started")
EXPIRED = Situation("Expired", "the run is over and was removed after its retention before its end was read")
UNKNOWN = Situation("Queued", "PostgreSQL did not answer; the run starts by itself once it does")


class Do(Enum):
    """The acts. Each may be repeated, so one that was cut off is simply done again."""

    LOOK = "look again later"
    START = "start the run"
    CANCEL = "cancel the run"
    SHOW = "write the status"
    DELETE = "delete the object: its time after the end is over"
    DROP = "stop following: the object says that it is finished"
    FORGET = "forget the object: it is gone, and its run is cancelled or over"


@dataclass(slots=True)
class Track:
    """What is remembered of one object between two looks. Times are seconds of the monotonic clock.

    ``obj`` is None where only the database knew of the object, which is gone then. ``rank`` and ``written`` are of the
    status: how far it came, and by how many writes at most.
    """

    uid: str
    namespace: str
    name: str
    run_id: str
    obj: RunObject | None
    since: float
    version: str = ""
    gone: bool = False
    rank: int = 0
    written: int = 0
    accepted: bool = False
    hindrance: str = ""
    refused: Situation | None = None
    missing_since: float | None = None
    refusals: int = 0
    doubt_until: float = 0.0
    """Until when a start whose answer was lost may still be committed."""

    failures: int = 0
    due: float | None = None
    busy: bool = False
    touched: bool = False
    """News came while it was acted on."""

    def has_run(self) -> None:
        """Its run exists, so its input is not needed any more: thousands of them may be large."""
        self.accepted = True
        if self.obj is not None:
            self.obj = replace(self.obj, input=None)

    def see(self, obj: RunObject) -> None:
        """Take over what the object says now. A status that is older than our own last write changes nothing."""
        if self.obj is not None and obj.shown.rank < self.rank:
            obj = replace(obj, shown=self.obj.shown)
        self.obj = replace(obj, input=None) if self.accepted else obj
        self.version = obj.version
        if obj.shown.rank > self.rank:
            self.rank = obj.shown.rank
            self.written = max(self.written, self.rank)


@dataclass(frozen=True, slots=True)
class Decision:
    """An act; ``again`` is the time to the next look in seconds. ``situation``: to be shown, where there is no run."""

    do: Do
    again: float = SHORTEST
    situation: Situation | None = None


def decide(track: Track, run: RunState | None, now: float, wall: datetime, *, started: bool = False) -> Decision:
    """The next act. ``started``: a run was accepted for the object once, though there is none now."""
    if track.gone or track.obj is None:
        return _of_gone(track, run, now)
    if track.rank == END:
        return _of_finished(track.obj, wall)
    if run is not None:
        return _of_run(track, track.obj, run, now)
    return _without_run(track, track.obj, now, started=started)


def decide_blindly(track: Track, again: float, now: float) -> Decision:
    """What is done without the database: an object that says nothing yet tells what it waits for."""
    if track.gone or track.obj is None or not may_show(track, RANKS[UNKNOWN.reason], now):
        return Decision(Do.LOOK, again)
    return Decision(Do.SHOW, again, UNKNOWN)


def _of_gone(track: Track, run: RunState | None, now: float) -> Decision:
    if run is None:
        return Decision(Do.LOOK) if now < track.doubt_until else Decision(Do.FORGET)
    over = RunStatus(run.status).final or run.cancelling
    return Decision(Do.FORGET if over else Do.CANCEL)


def _of_finished(obj: RunObject, wall: datetime) -> Decision:
    if obj.ttl is None or obj.deleting:
        return Decision(Do.DROP)
    ended = obj.shown.ended_at or wall
    left = (ended + timedelta(seconds=obj.ttl) - wall).total_seconds()
    return Decision(Do.LOOK, left) if left > 0 else Decision(Do.DELETE)


def _of_run(track: Track, obj: RunObject, run: RunState, now: float) -> Decision:
    if RunStatus(run.status).final:
        return Decision(Do.SHOW)
    if obj.unwanted and not run.cancelling:
        return Decision(Do.CANCEL)
    return Decision(Do.SHOW if may_show(track, RANKS[REASONS[run.status]], now) else Do.LOOK, _pause(track, now))


def _without_run(track: Track, obj: RunObject, now: float, *, started: bool) -> Decision:
    if started:
        return Decision(Do.SHOW, situation=EXPIRED)
    if now < track.doubt_until and (obj.unwanted or track.refused):
        return Decision(Do.LOOK)
    if obj.unwanted or track.refused:
        return Decision(Do.SHOW, situation=track.refused or CANCELLED)
    if track.hindrance and may_show(track, RANKS["Queued"], now):
        return Decision(Do.SHOW, 0.0, Situation("Queued", track.hindrance))
    return Decision(Do.START)


def may_show(track: Track, rank: int, now: float) -> bool:
    """Whether a state that is no end is worth one of the few writes: one stays for the end, and one for the deletion."""
    spare = 2 if track.obj is not None and track.obj.ttl is not None else 1
    return rank > track.rank and track.written < WRITES - spare and now - track.since >= SETTLE


def _pause(track: Track, now: float) -> float:
    """Young runs are looked at often: many end within a second."""
    return min(max((now - track.since) / AGEING, SHORTEST), LONGEST)


def track_of(obj: RunObject, now: float) -> Track:
    """The beginning of following an object."""
    return Track(obj.uid, obj.namespace, obj.name, obj.run_id, obj, now)


def wall_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)
