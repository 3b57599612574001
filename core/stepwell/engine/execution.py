"""One claimed run, executed: observes, asks ``decide``, and carries out its commands.

No task is spent on a run: pure steps run where they stand, results gather until the journal collects them, and only an
effect in flight has a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import orjson

from stepwell.domain import decide as d
from stepwell.domain import handlers
from stepwell.domain.action import Call, Deferred, Outcome
from stepwell.domain.approval_links import ApprovalLinks, hide_links_of, without_links
from stepwell.domain.documents import JsonObject
from stepwell.domain.errors import StepwellError
from stepwell.domain.retry import StepFailure
from stepwell.domain.revision import Step
from stepwell.domain.states import RunStatus, StepStatus
from stepwell.engine.attempt import attempted
from stepwell.engine.clock import as_micros
from stepwell.engine.crashpoints import crashpoint
from stepwell.engine.failures import as_failure, error_document, http_document
from stepwell.engine.ports import (
    AttemptRecord,
    ClaimedRun,
    End,
    FlushEntry,
    Handling,
    Kept,
    Park,
    RecordedAttempt,
    Turn,
)
from stepwell.engine.results import Results
from stepwell.engine.revisions import LoadedRevision

TIME_SLICE = 5_000  # microseconds of pure steps before other runs get the loop
FRESH = 1_000_000  # microseconds that a confirmation lasts; an effect that could not begin by then is confirmed again

log = logging.getLogger(__name__)


class Host(Protocol):
    """What an execution needs of its worker. While ``draining``, no effect starts and runs are handed back."""

    draining: bool
    links: ApprovalLinks | None

    def micros(self) -> int:
        """The time."""

    def dirty(self, execution: Execution) -> None:
        """Have the journal collect this run's entry with its next flush."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run an effect."""

    def later(self, delay: float, execution: Execution) -> asyncio.TimerHandle:
        """Advance the run again after ``delay`` seconds."""

    def may_act(self) -> bool:
        """Whether this worker is surely alive in the eyes of the others, so that it may start an effect."""

    def left(self, execution: Execution, kept: Kept | None) -> None:
        """The run left this worker: ended, parked, or (None) lost to another."""

    def idle(self, execution: Execution) -> None:
        """The run has nothing left to execute; only its last flush is awaited."""


class Execution:
    """The state of one run on this worker. Created from a claim, it lives until ``Host.left`` is told."""

    __slots__ = (
        "_attempts", "_cancelled", "_deadline", "_deferred", "_gone", "_host", "_leaving", "_outcome", "_pending", "_refused",
        "_retries", "_running", "_sent", "_sent_settled", "_slice", "_tasks", "_timer", "_touch", "_wakes", "loaded", "progressed", "results", "run",
    )  # fmt: skip

    def __init__(
        self, host: Host, run: ClaimedRun, loaded: LoadedRevision, history: Sequence[RecordedAttempt] = ()
    ) -> None:
        self._host = host
        self.run = run
        self.loaded = loaded
        self.progressed = False  # a durable step under this claim: no longer under suspicion
        self.results = Results(run, loaded, host.links)
        self._attempts: dict[int, int] = {}
        self._retries: dict[int, int] = {}  # when a step that failed, pauses or was deferred may start again
        self._deferred = 0
        self._running = 0
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pending: list[AttemptRecord] = []
        self._leaving: End | Turn | Park | None = None
        self._sent: FlushEntry | None = None
        self._sent_settled = 0
        self._touch = False
        self._cancelled = run.cancelled
        self._refused = False
        self._gone = False
        self._slice = 0
        self._wakes = run.wakes
        self._deadline = run.created_at + int(loaded.revision.timeout * 1e6)
        self._outcome: RunStatus | None = None  # how the steps ended, once that is durable
        if run.handling is not None:
            self._take_up(Handling(*orjson.loads(run.handling)))
        for attempt in history:
            self._replay(attempt)

    # -- the loop of one run ---------------------------------------------------------------------------------------

    def advance(self, *, confirmed: bool = False) -> None:
        """Carry out what can be done now. ``confirmed``: the store said at this moment that the run is ours."""
        if self._gone:
            return
        try:
            self._go_on(confirmed=confirmed)
        except Exception as exc:  # noqa: BLE001 - a defect of ours must end neither the journal nor the worker
            self._defect(exc)

    def _go_on(self, *, confirmed: bool) -> None:
        now = self._host.micros()
        self._slice = now + TIME_SLICE
        while self._leaving is None:
            acting = confirmed and not self._host.draining and self._host.may_act()
            commands = d.decide(self.loaded.revision, self._snapshot(confirmed=acting), now)
            if not self._carry_out(commands, now):
                break
            now = self._host.micros()
            if now > self._slice:
                self._wake_at(now)
                break
        if self._host.draining:
            self._hand_back()
        if self._pending or self._leaving or self._touch:
            self._host.dirty(self)

    def cancel(self) -> None:
        """The run's cancel was acknowledged: calls in flight are aborted."""
        if not self._cancelled:
            self._cancelled = True
            self.advance()

    def abandon(self) -> None:
        """The run is no longer ours, or this worker stops: end everything in flight and write nothing more."""
        self._gone = True
        self._abort()
        self._stop_timer()

    def _hand_back(self) -> None:
        """While draining: back into the queue as soon as nothing is in flight."""
        if self._leaving is None and not self._running:
            self._park(None)

    def _snapshot(self, *, confirmed: bool) -> d.Snapshot:
        r = self.results
        return d.Snapshot(
            r.settled, r.durable, self._running, tuple(self._retries.items()), r.failed, self._cancelled, confirmed,
            self._deadline, r.part,
        )  # fmt: skip

    def _carry_out(self, commands: list[d.Command], now: int) -> bool:
        """Whether something changed, so that there may be more to do at once."""
        changed = False
        for command in commands:
            match command:
                case d.Start(step=index):
                    self._start(self.loaded.revision.steps[index], now)
                    changed = True
                    if self.results.failed >= 0 or self._host.micros() > self._slice:
                        break  # the other commands were decided without knowing this
                case d.Confirm():
                    self._confirm()
                case d.Finish(status=status):
                    self._finish(status, now)
                case d.Abort():
                    self._abort()
                    changed = True
                case d.Sleep(until=until):
                    self._wake_at(until)
                case d.ParkUntil(due=due):
                    self._park(due)
        return changed

    def _confirm(self) -> None:
        if self._host.draining:
            return  # no answer would let an effect start
        if self._host.may_act():
            self._touch = True
        else:
            self._wake_at(self._host.micros() + 1_000_000)

    def _wake_at(self, moment: int) -> None:
        self._stop_timer()
        self._timer = self._host.later(max(0, moment - self._host.micros()) / 1e6, self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- steps -----------------------------------------------------------------------------------------------------

    def _start(self, step: Step, now: int) -> None:
        """Run a pure step, or begin an effect."""
        attempt = self._attempts.get(step.index, 0) + 1
        self._retries.pop(step.index, None)
        try:
            value = self.results.input_of(step)
            context = self.results.context(step, value)
            if step.condition is not None and attempt == 1 and not step.condition.test(context):
                self._record(step, attempt, StepStatus.SKIPPED, now)
                return
            if step.pause:
                self._let_pass(step, attempt, now, as_micros(step.action.until(value, context)))  # type: ignore[union-attr]
                return
            if not step.effect:
                outcome = Outcome(step.action.run(value, context))  # type: ignore[union-attr]
                self._succeed(step, attempt, now, outcome)
                return
            request = step.action.render(value, context)  # type: ignore[union-attr]
        except Exception as exc:  # noqa: BLE001 - a defect of an action fails its step, never the worker
            self._fail(step, attempt, now, as_failure(exc))
            return
        self._running |= step.bit
        crashpoint("before_effect")
        self._tasks[step.index] = self._host.spawn(self._perform(step, attempt, now, request, context))

    def _let_pass(self, step: Step, attempt: int, now: int, moment: int) -> None:
        """The step is over at this moment; until then it is no step's turn."""
        if moment <= now:
            self._succeed(step, attempt, self.results.since(step), Outcome(None))
        else:
            self._retries[step.index] = moment

    async def _perform(self, step: Step, attempt: int, started: int, request: Any, context: Any) -> None:
        """One attempt in its own task."""
        task = asyncio.current_task()
        result: Outcome | StepFailure | Deferred | None = None
        if self._may_begin(started):
            result = await attempted(step, self._call(step, attempt, started), request, context)
            crashpoint("after_effect_before_flush")
        if self._tasks.get(step.index) is not task:
            return  # aborted, though the action did not end with that
        self._running &= ~step.bit
        del self._tasks[step.index]
        try:
            if isinstance(result, Outcome):
                self._succeed(step, attempt, started, result)
            elif isinstance(result, Deferred):
                self._defer(step, result)
            elif result is not None:
                self._fail(step, attempt, started, result)
        except Exception as exc:  # noqa: BLE001 - as in advance
            self._defect(exc)
        self.advance()

    def _may_begin(self, started: int) -> bool:
        """Whether what allowed an effect still does: its task may have waited for its turn, or long for its place."""
        fresh = self._host.micros() - started <= FRESH
        return fresh and self.results.failed < 0 and not self._host.draining and self._host.may_act()

    def _call(self, step: Step, attempt: int, started: int) -> Call:
        return Call(
            namespace=self.loaded.namespace,
            workflow=self.loaded.workflow,
            run_id=self.run.id,
            step=step.name,
            attempt=attempt,
            timeout=step.timeout,
            idempotency_key=f"{self.run.id}/{step.name}",
            now=started,
            since=self.results.since(step),
        )

    def _defer(self, step: Step, deferred: Deferred) -> None:
        """It starts again at its time, and once something woke the run."""
        self._deferred |= step.bit
        self._retries[step.index] = self._deadline if deferred.due is None else deferred.due

    def _resume(self) -> None:
        """The run was woken while it is here: what was deferred may look again."""
        for step in self.loaded.revision.steps:
            if self._deferred & step.bit:
                self._retries.pop(step.index, None)
        self._deferred = 0

    def _succeed(self, step: Step, attempt: int, started: int, outcome: Outcome) -> None:
        try:
            if self.loaded.revision.links:
                outcome = without_links(outcome)
            document, http = self.results.accept(step, outcome)
        except StepwellError as exc:
            self._fail(step, attempt, started, as_failure(exc))
            return
        self._record(step, attempt, StepStatus.SUCCEEDED, started, output=document, http=http, outcome=outcome)

    def _fail(self, step: Step, attempt: int, started: int, failure: StepFailure) -> None:
        if self.loaded.revision.links:
            failure = hide_links_of(failure)
        shown, error = error_document(failure)
        shown_http, http = http_document(failure)
        if step.retry.allows(failure, attempt):
            delay = step.retry.delay(failure, attempt, f"{self.run.id}/{step.name}")
            self._attempts[step.index] = attempt
            self._retries[step.index] = self._host.micros() + int(delay * 1e6)
            self._append(step, attempt, StepStatus.FAILED, started, error=error, http=http)
            return
        self._record(
            step,
            attempt,
            StepStatus.FAILED,
            started,
            error=error,
            http=http,
            outcome=Outcome(None, shown_http),
            shown=shown,
        )

    def _record(
        self,
        step: Step,
        attempt: int,
        status: StepStatus,
        started: int,
        *,
        output: bytes | None = None,
        error: bytes | None = None,
        http: bytes | None = None,
        outcome: Outcome | None = None,
        shown: JsonObject | None = None,
    ) -> None:
        """The step has its final result."""
        record = self._append(step, attempt, status, started, output=output, error=error, http=http)
        self.results.settle(step, status, record.finished_at, outcome or Outcome(None), shown)

    def _append(
        self,
        step: Step,
        attempt: int,
        status: StepStatus,
        started: int,
        *,
        output: bytes | None = None,
        error: bytes | None = None,
        http: bytes | None = None,
    ) -> AttemptRecord:
        record = AttemptRecord(
            step.name, attempt, status, started, self._host.micros(), self._retries.get(step.index), None, None, output,
            error, http,
        )  # fmt: skip
        record.input_from, record.input = self.results.input_reference(step)
        self._pending.append(record)
        return record

    def _abort(self) -> None:
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        self._running = 0

    # -- the end, and the journal ------------------------------------------------------------------------------------

    def _finish(self, ended: RunStatus, now: int) -> None:
        self._end_part(self.results.end(ended, now, self.loaded))

    def _end_part(self, end: End) -> None:
        """The steps, or the handlers whose turn it was, are over: now others have theirs, or the run ends."""
        outcome = self._outcome or end.status
        following = handlers.following(self.loaded.revision, self.results.part, outcome)
        if following is not None:
            first = end if self._outcome is None else None
            self._leave(Turn(following, end.finished_at, end.finished_at + handlers.BUDGET, first))
        elif self._outcome is None:
            self._leave(end)
        else:
            self._leave(self.results.end_after_handlers(outcome, end))

    def _take_up(self, handling: Handling) -> None:
        """Go on where the handlers of the run were left."""
        self._outcome = RunStatus(handling.outcome)
        self._deadline = handlers.budget_end(handling.until, self._host.micros())
        self.results.keep_error(handling.error)
        self.results.hand_over(handling.part, handling.at)

    def _hand_over(self, turn: Turn) -> None:
        """It is durable that these handlers have their turn. What the steps still wanted to do is over."""
        if turn.outcome is not None:
            self._outcome = turn.outcome.status
            self.results.keep_error(orjson.loads(turn.outcome.error or b"null"))
        self._deadline = turn.until
        self._retries.clear()
        self._deferred = 0
        self.results.hand_over(turn.part, turn.at)

    def _park(self, due: int | None) -> None:
        self._leave(Park(self._wakes, due, self._deadline if self.results.part else None))

    def _leave(self, leaving: End | Turn | Park) -> None:
        self._leaving = leaving
        self._stop_timer()
        if not isinstance(leaving, Turn):
            self._host.idle(self)

    def collect(self) -> FlushEntry:
        """What the run has to say, for the journal."""
        entry = FlushEntry(self.run.id, self.run.fence, tuple(self._pending))
        if isinstance(self._leaving, End):
            entry.end = self._leaving
        elif isinstance(self._leaving, Park):
            entry.park = self._leaving
        elif isinstance(self._leaving, Turn):
            entry.turn = self._leaving
        self._pending.clear()
        self._touch = False
        self._sent = entry
        self._sent_settled = self.results.settled
        return entry

    def flushed(self, kept: Kept | None) -> None:
        """The journal's answer to what was collected last; None: the run is no longer ours."""
        if self._gone:
            return
        if kept is None or kept.ended or kept.parked is not None:
            self.abandon()
            self._host.left(self, kept)
            return
        self.results.durable |= self._sent_settled
        self._cancelled |= kept.cancelled
        self._refused = False
        if self._sent is not None:
            self._answered(self._sent, kept)
        if kept.wakes != self._wakes:
            self._wakes = kept.wakes
            self._resume()
        self.advance(confirmed=True)

    def _answered(self, sent: FlushEntry, kept: Kept) -> None:
        self.progressed |= bool(sent.attempts)
        if sent.end or sent.park or sent.turn:
            self._leaving = None  # where it is not a turn, a cancel voided it
        if sent.turn is None:
            return
        outcome = sent.turn.outcome
        if not (kept.cancelled and outcome is not None and outcome.status is RunStatus.SUCCEEDED):
            self._hand_over(sent.turn)

    def refused(self, message: str) -> None:
        """The store refused this run's rows: the run fails with the store's words, and its rows are dropped.

        A store that refuses even that gets the run back: whoever claims it next may write more fitting rows.
        """
        if self._gone:
            return
        if self._refused:
            self.flushed(None)
            return
        self._refused = True
        self._end_broken("RecordRefused", f"the result could not be stored: {message}")

    def _defect(self, exc: Exception) -> None:
        about = {"run": self.run.id, "namespace": self.loaded.namespace, "workflow": self.loaded.workflow}
        log.error("run %s cannot go on", self.run.id, exc_info=exc, extra=about)
        self._end_broken("InternalError", f"the run could not go on: {type(exc).__name__}: {exc}")

    def _end_broken(self, reason: str, message: str) -> None:
        """The run fails as a whole, whatever its steps say; or its handlers do."""
        self._abort()
        self._pending.clear()
        self.results.forget_unrecorded()
        self._end_part(self.results.refusal(StepFailure(reason, message), self._host.micros()))
        self._host.dirty(self)

    def _replay(self, attempt: RecordedAttempt) -> None:
        """Take a durable attempt over. The clocks of two workers may differ, so a later attempt may come first."""
        step = self.loaded.steps.get(attempt.step)
        if step is None or attempt.attempt <= self._attempts.get(step.index, 0):
            return
        self._attempts[step.index] = attempt.attempt
        self._retries.pop(step.index, None)
        if attempt.retry_at is None:
            self.results.restore(step, attempt)
        elif step.part is self.results.part:
            self._retries[step.index] = attempt.retry_at
