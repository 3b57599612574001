"""How far a run is, step by step: what was recorded, and what follows from it for the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stepwell.domain.graph import direct_needs
from stepwell.domain.revision import Part
from stepwell.domain.states import RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from stepwell.adapters.postgres.history_store import RunState, StepRecord

_COMMON = frozenset({"name", "needs", "if", "forEach", "retry", "onError", "timeout"})
_WAITING = frozenset({"wait", "approval"})


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step as the spec has it; ``needs`` are names of its own list."""

    name: str
    action: str
    needs: tuple[str, ...]
    goes_on: bool
    part: Part = Part.STEPS


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step of a run. ``state``: pending, running, waiting, retrying, succeeded, failed, skipped; where the run ended
    before it had a result, stopped (it was in flight, or about to be) or not run.

    ``attempt`` is the latest one that is known of (0: none); ``message`` says why the latest one failed. ``items`` are those
    that are over, and all of them, of a step with `forEach` of which at least one is over.
    """

    name: str
    action: str
    state: str
    attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retry_at: datetime | None = None
    message: str = ""
    items: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A run and its steps, in the order of the manifest."""

    run: RunState
    steps: tuple[StepProgress, ...]

    @property
    def ended(self) -> bool:
        """Whether the run has its final status."""
        return RunStatus(self.run.status).final


class ItemsProgress:
    """What was recorded of the items of one step."""

    def __init__(self) -> None:
        self._over: set[int] = set()
        self._retries: dict[int, StepRecord] = {}
        self._all = 0
        self._began: datetime | None = None

    def add(self, record: StepRecord) -> None:
        """One attempt; those of an item come in their order."""
        self._all = record.items or 0
        self._began = min(self._began or record.started_at, record.started_at)
        if record.retry_at is None:
            self._over.add(record.item_index)
            self._retries.pop(record.item_index, None)
        else:
            self._retries[record.item_index] = record

    def shown(self, step: StepProgress, run: RunState) -> StepProgress:
        """The step with its items. While the run waits, it is for one of them."""
        step = replace(step, items=(len(self._over), self._all))
        if step.state == "not run":  # the run ended before all of them were over
            return replace(step, state="stopped", started_at=self._began)
        if step.state not in {"running", "pending"}:
            return step
        step = replace(step, started_at=self._began)
        if run.status != "waiting" or not self._retries:
            return step
        first = min(self._retries.values(), key=lambda record: record.retry_at or record.finished_at)
        message = f"item {first.item_index}: {(first.error or {}).get('message', '')}"
        return replace(step, state="retrying", attempt=first.attempt, retry_at=first.retry_at, message=message)


def plan(spec: dict[str, Any]) -> tuple[PlannedStep, ...]:
    """The steps of a stored spec, then its handlers."""
    return tuple(step for part in Part for step in _list(spec.get(part.word) or [], part))


def _list(steps: list[dict[str, Any]], part: Part) -> Iterator[PlannedStep]:
    names = [step["name"] for step in steps]
    needs = direct_needs(names, [step.get("needs") for step in steps])
    for step, direct in zip(steps, needs, strict=True):
        action = next(key for key in step if key not in _COMMON)
        goes_on = step.get("onError") == "Continue"
        yield PlannedStep(step["name"], action, tuple(names[need] for need in direct), goes_on, part)


def progress(planned: Sequence[PlannedStep], run: RunState, records: Iterable[StepRecord]) -> Progress:
    """Put a run together from its spec and its records."""
    latest: dict[str, StepRecord] = {}
    first: dict[str, datetime] = {}
    items: dict[str, ItemsProgress] = {}
    for record in records:
        if record.item_index == -1:
            latest[record.step] = record
            first.setdefault(record.step, record.started_at)
        else:
            items.setdefault(record.step, ItemsProgress()).add(record)
    done = {step.name: latest[step.name].finished_at for step in planned if _done(step, latest.get(step.name))}
    turn = _turn(planned, latest, done)
    steps = tuple(
        _recorded(step, latest[step.name], first[step.name], run)
        if step.name in latest
        else _unrecorded(step, run, done, turn)
        for step in planned
    )
    return Progress(run, tuple(items[s.name].shown(s, run) if s.name in items else s for s in steps))


def _turn(planned: Sequence[PlannedStep], latest: dict[str, StepRecord], done: dict[str, datetime]) -> Part:
    """The list whose turn it seems to be, as far as records tell: after a cancel they do once a handler has one."""
    reached = max((step.part for step in planned if step.name in latest), default=Part.STEPS)
    of_list = [step for step in planned if step.part is reached]
    broken = any(s.name in latest and s.name not in done and latest[s.name].retry_at is None for s in of_list)
    started = all(s.name in latest or not done.keys() >= set(s.needs) for s in of_list)
    if not (broken and started) and not all(s.name in done for s in of_list):
        return reached
    later = {s.part for s in planned if s.part > reached and (broken or s.part is Part.FINALLY)}
    return min(later, default=reached)


def _done(step: PlannedStep, record: StepRecord | None) -> bool:
    if record is None or record.retry_at is not None:
        return False
    return record.status != "failed" or step.goes_on


def _recorded(step: PlannedStep, record: StepRecord, started: datetime, run: RunState) -> StepProgress:
    retrying = record.retry_at is not None and not RunStatus(run.status).final
    return StepProgress(
        step.name,
        step.action,
        "retrying" if retrying else record.status,
        record.attempt,
        started,
        record.finished_at,
        record.retry_at if retrying else None,
        str((record.error or {}).get("message", "")),
    )


def _unrecorded(step: PlannedStep, run: RunState, done: dict[str, datetime], turn: Part) -> StepProgress:
    """A step that has no result. One that can run does, and has since the last of its needs ended."""
    could_run = run.started_at is not None and done.keys() >= set(step.needs)
    if RunStatus(run.status).final:
        stopped = could_run and step.part is turn and run.status in {"cancelled", "timed_out"}
        return StepProgress(step.name, step.action, "stopped" if stopped else "not run")
    if step.part < turn:
        return StepProgress(step.name, step.action, "not run")
    waits = step.action in _WAITING
    if not could_run or step.part > turn or not (waits or run.status == "running"):
        return StepProgress(step.name, step.action, "pending")
    before = done.values() if step.part and not step.needs else [done[need] for need in step.needs]
    since = max(before, default=run.started_at)
    return StepProgress(step.name, step.action, "waiting" if waits else "running", started_at=since)
