"""Tells of runs as this process executes them: a line as one starts, a line as it ends. Many at once become sums."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from stepwell.domain.errors import StepwellError
from stepwell.domain.states import RunStatus
from stepwell.engine.clock import as_datetime
from stepwell.engine.observer import Silent
from stepwell_cli.console import shorten
from stepwell_cli.steps_table import elapsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stepwell.adapters.postgres.workflow_store import WorkflowStore
    from stepwell.engine.execution import Execution
    from stepwell.engine.ports import ClaimedRun, FlushEntry, Kept, Reaped
    from stepwell_cli.dev.report import Report

SINGLY = 20  # events that came together, beyond which they are summed up
FAILURES = 5  # failures among those that are shown nevertheless
WAITED = 5.0  # seconds in the queue that are worth a word
PAUSE = 0.05  # seconds in which events gather
MESSAGE = 300  # characters


@dataclass(frozen=True, slots=True)
class RunEvent:
    """``word``: started, resumed, or how it ended. ``workflow`` is the number of one, or its name."""

    word: str
    run: str
    workflow: int | str
    text: str = ""
    fields: Mapping[str, Any] | None = None


class Feed(Silent):
    """An observer of the engine. ``live`` are the runs that began here and have not ended, ``parked`` those of them that wait."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._events: list[RunEvent] = []
        self._names: dict[int, str] = {}
        self._told = asyncio.Event()
        self.live: set[str] = set()
        self.parked: set[str] = set()

    # -- the observer --------------------------------------------------------------------------------------------------

    def begun(self, run: ClaimedRun, now: int) -> None:
        """See Observer. A run that was parked begins again; that is no news."""
        self.parked.discard(run.id)
        if run.id not in self.live:
            self.live.add(run.id)
            waited = (now - run.created_at) / 1e6
            text = f"after {waited:.0f} s in the queue" if run.claims == 1 and waited > WAITED else ""
            self._add(RunEvent("started" if run.claims == 1 else "resumed", run.id, run.workflow_id, text))

    def flushed(
        self,
        entries: Sequence[FlushEntry],
        kept: Mapping[str, Kept],
        active: Mapping[str, Execution],
        seconds: float,  # noqa: ARG002 - how long the flush took
    ) -> None:
        """See Observer."""
        for entry in entries:
            answer, execution = kept.get(entry.run_id), active.get(entry.run_id)
            if answer is None:  # another worker's by now
                self.live.discard(entry.run_id)
            elif answer.ended and execution is not None:
                self.live.discard(entry.run_id)
                self._add(_ended(entry, execution))
            elif answer.parked is not None:
                self.parked.add(entry.run_id)

    def recovered(self, runs: Sequence[Reaped]) -> None:
        """See Observer."""
        for reaped in runs:
            if reaped.status in tuple(RunStatus) and RunStatus(reaped.status).final:
                self.live.discard(reaped.run.id)
                self._add(RunEvent(reaped.status, reaped.run.id, reaped.run.namespace, "its workers died of it"))

    def _add(self, event: RunEvent) -> None:
        self._events.append(event)
        self._told.set()

    # -- the lines -----------------------------------------------------------------------------------------------------

    async def run(self, store: WorkflowStore) -> None:
        """Print what happens, for ever; cancelled to stop."""
        while True:
            await self._told.wait()
            await self.tell(store)
            await asyncio.sleep(PAUSE)

    async def tell(self, store: WorkflowStore) -> None:
        """Print what happened until now."""
        self._told.clear()
        events, self._events = self._events, []
        for number in {event.workflow for event in events if isinstance(event.workflow, int)} - self._names.keys():
            try:
                self._names[number] = await store.name(number)
            except StepwellError:  # a line without a name is better than none
                continue
        if len(events) > SINGLY:
            failed = [event for event in events if event.word in {"failed", "timed out"}][:FAILURES]
            self._sum_up([event for event in events if event not in failed])
            events = failed
        for event in events:
            text = f"{event.run}  {event.text}" if event.text else event.run
            self._report.event(event.word, self._name(event), text, run=event.run, **(event.fields or {}))

    def _sum_up(self, events: Iterable[RunEvent]) -> None:
        for (word, name), number in Counter((event.word, self._name(event)) for event in events).items():
            self._report.event(word, name, f"{number:,} runs", runs=number)

    def _name(self, event: RunEvent) -> str:
        return event.workflow if isinstance(event.workflow, str) else self._names.get(event.workflow, "a workflow")


def _ended(entry: FlushEntry, execution: Execution) -> RunEvent:
    end = entry.end
    loaded = execution.loaded
    name = f"{loaded.namespace}/{loaded.workflow}"
    if end is None:
        return RunEvent("cancelled", entry.run_id, name)
    took = elapsed(as_datetime(execution.run.created_at), as_datetime(end.finished_at))
    fields: dict[str, Any] = {"seconds": (end.finished_at - execution.run.created_at) / 1e6}
    if end.status is RunStatus.SUCCEEDED:
        return RunEvent("succeeded", entry.run_id, name, f"in {took}", fields)
    error = orjson.loads(end.error) if end.error else {}
    step, message = error.get("step"), str(error.get("message", "")).replace("\n", " ")
    where = f" at step {step}" if step else ""
    text = f"after {took}{where}" + (f": {shorten(message, MESSAGE)}" if message else "")
    fields |= {"step": step, "reason": error.get("reason"), "message": message}
    return RunEvent(end.status.value.replace("_", " "), entry.run_id, name, text, fields)
