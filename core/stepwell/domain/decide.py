"""What a run does next: a pure function of its revision, what is known of it, and the time.

``decide`` knows no I/O, no clock and no randomness; the engine observes, asks it, and carries out its commands. Sets of
steps are bit masks over their positions, times are integer microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from stepwell.domain.revision import Part, Revision, Step
from stepwell.domain.states import RunStatus

PARK_AFTER = 2_000_000  # microseconds; a longer pause gives the slot back

_RECORDED = frozenset({None, RunStatus.FAILED})
"""Ends at which what is in flight is still recorded."""


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a step with `forEach`, known since the step began. Sets of items are bit masks over their indices.

    ``left`` have no final result yet; of these ``running`` have an attempt in flight, and ``retries`` are due again at a time.
    At most ``parallel`` are under way, and one that waits for its next attempt is. ``failed``: one failed for good, and the
    step fails with it.
    """

    step: int
    left: int
    running: int = 0
    retries: tuple[tuple[int, int], ...] = ()
    parallel: int = 10
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a run that is being executed.

    ``settled`` steps have their final result and ``durable`` ones are those of them that are committed; ``running`` ones
    have an attempt in flight; ``retries`` are steps whose next attempt is due at a time. ``failed`` is a step that failed
    for good, -1 if none. ``confirmed``: the claim was seen to stand at this very moment, so an effect may start.
    ``part`` is the list of steps whose turn it is; ``running``, ``retries``, ``failed`` and ``deadline`` are of that one. What
    handles an end is not cancelled. ``items`` are of the steps that run for each of several items and have begun; they are
    ``running`` while an item is.
    """

    settled: int = 0
    durable: int = 0
    running: int = 0
    retries: tuple[tuple[int, int], ...] = ()
    failed: int = -1
    cancelled: bool = False
    confirmed: bool = False
    deadline: int = 1 << 62
    part: int = Part.STEPS
    items: tuple[Items, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """Run the next attempt of this step now; of one with `forEach`: find out what its items are."""

    step: int


@dataclass(frozen=True, slots=True)
class StartItem:
    """Run the next attempt of this item now."""

    step: int
    item: int


@dataclass(frozen=True, slots=True)
class Gather:
    """Nothing more comes of the step's items: put its result together."""

    step: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """Something with an effect could start: ask the store first whether the run is still ours and not cancelled."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing to do before this time, but the slot is kept."""

    until: int


@dataclass(frozen=True, slots=True)
class ParkUntil:
    """Nothing of the run runs or can start before this time: give the slot back."""

    due: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop the attempts in flight; their outcome no longer matters."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The list of steps whose turn it is is over; what the run comes to by it says ``stepwell.domain.handlers``."""

    status: RunStatus


Command: TypeAlias = Start | StartItem | Gather | Confirm | Sleep | ParkUntil | Abort | Finish


def decide(revision: Revision, known: Snapshot, now: int) -> list[Command]:
    """The commands for this moment; none means: wait for what is in flight.

    An effect starts only once every result that it transitively needs is durable and the claim is confirmed; pure steps
    start at once, for they replay safely.
    """
    ending = _ending(known, now)
    if known.items and ending in _RECORDED:
        over: list[Command] = [Gather(i.step) for i in known.items if not i.running and (i.failed or not i.left)]
        if over:
            return over
    if ending is not None:
        return _end(ending, known)
    todo = revision.parts[known.part]
    if known.settled & todo == todo and not known.running:
        return [Finish(RunStatus.SUCCEEDED)]
    commands = _startable(revision, todo, known, now)
    return commands or _pause(known, now)


def _ending(known: Snapshot, now: int) -> RunStatus | None:
    if known.cancelled and not known.part:
        return RunStatus.CANCELLED
    if known.failed >= 0:
        return RunStatus.FAILED
    return RunStatus.TIMED_OUT if now >= known.deadline else None


def _end(status: RunStatus, known: Snapshot) -> list[Command]:
    """After a failure attempts in flight finish and are recorded; a cancel or the run's timeout stops them."""
    if not known.running:
        return [Finish(status)]
    return [] if status is RunStatus.FAILED else [Abort()]


def _startable(revision: Revision, todo: int, known: Snapshot, now: int) -> list[Command]:
    starts: list[Command] = []
    unconfirmed = False
    pausing = 0
    for index, due in known.retries:
        if due > now:
            pausing |= 1 << index
    idle = todo & ~(known.settled | known.running | pausing)
    for items in known.items:
        idle &= ~(1 << items.step)
        found = _startable_items(items, revision.steps[items.step], known, now)
        unconfirmed |= found is None
        starts += found or ()
    while idle:
        step = revision.steps[(idle & -idle).bit_length() - 1]
        idle &= idle - 1
        if step.direct & ~known.settled:
            continue
        if not step.effect or step.for_each is not None:  # what the items are is found without an effect
            starts.append(Start(step.index))
        elif not step.ancestors & ~known.durable:
            if known.confirmed:
                starts.append(Start(step.index))
            else:
                unconfirmed = True
    if unconfirmed:
        starts.append(Confirm())
    return starts


def _startable_items(items: Items, step: Step, known: Snapshot, now: int) -> list[StartItem] | None:
    """What may start of them; None: something could, once the claim is confirmed."""
    if not step.effect:
        return _next_items(items, now)
    found = [] if step.ancestors & ~known.durable else _next_items(items, now)
    return found if known.confirmed or not found else None


def _next_items(items: Items, now: int) -> list[StartItem]:
    """What is due, and from the first on as many as there is room for."""
    starts = [StartItem(items.step, index) for index, due in items.retries if due <= now]
    retrying = sum(1 << index for index, _ in items.retries)
    fresh = items.left & ~(items.running | retrying)
    for _ in range(items.parallel - items.running.bit_count() - len(items.retries)):
        if not fresh:
            break
        starts.append(StartItem(items.step, (fresh & -fresh).bit_length() - 1))
        fresh &= fresh - 1
    return starts


def _pause(known: Snapshot, now: int) -> list[Command]:
    later = [due for _, due in known.retries if due > now]
    later += [due for items in known.items for _, due in items.retries if due > now]
    waiting_for_flush = known.settled & ~known.durable
    if not later:
        return [Sleep(known.deadline)] if known.running else []
    due = min(*later, known.deadline)
    if known.running or waiting_for_flush or due - now <= PARK_AFTER:
        return [Sleep(due)]
    return [ParkUntil(due)]
