"""One claimed run, executed: observes, asks ``decide``, and carries out its commands.

No task is spent on a run: pure steps run where they stand, results gather until the journal collects them, and only an
effect in flight has a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import reduce
from operator import or_

import orjson

from stepwell.domain import decide as d
from stepwell.domain import handlers
from stepwell.domain.retry import StepFailure
from stepwell.domain.states import RunStatus
from stepwell.engine.host import Host
from stepwell.engine.journal import portion
from stepwell.engine.ports import ClaimedRun, End, FlushEntry, Handling, Kept, Park, RecordedAttempt, Turn
from stepwell.engine.results import Results
from stepwell.engine.revisions import LoadedRevision
from stepwell.engine.work import Work

TIME_SLICE = 5_000  # microseconds of pure steps before other runs get the loop

log = logging.getLogger(__name__)


class Execution:
    """The state of one run on this worker. Created from a claim, it lives until ``Host.left`` is told."""

    __slots__ = (
        "_cancelled", "_deadline", "_gone", "_host", "_leaving", "_outcome", "_refused", "_sent", "_sent_settled", "_slice",
        "_timer", "_touch", "_wakes", "_work", "loaded", "progressed", "results", "run",
    )  # fmt: skip

    def __init__(
        self, host: Host, run: ClaimedRun, loaded: LoadedRevision, history: Sequence[RecordedAttempt] = ()
    ) -> None:
        self._host = host
        self.run = run
        self.loaded = loaded
        self.progressed = False  # a durable step under this claim: no longer under suspicion
        self.results = Results(run, loaded, host.links)
        self._work = Work(host, self, run, loaded, self.results)
        self._timer: asyncio.TimerHandle | None = None
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
        if history:
            self._work.replay(history)

    # -- the loop of one run ---------------------------------------------------------------------------------------

    def advance(self, *, confirmed: bool = False) -> None:
        """Carry out what can be done now. ``confirmed``: the store said at this moment that the run is ours."""
        if self._gone:
            return
        try:
            self._go_on(confirmed=confirmed)
        except Exception as exc:  # noqa: BLE001 - a defect of ours must end neither the journal nor the worker
            self.defect(exc)

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
        if self._work.pending or self._leaving or self._touch:
            self._host.dirty(self)

    def cancel(self) -> None:
        """The run's cancel was acknowledged: calls in flight are aborted."""
        if not self._cancelled:
            self._cancelled = True
            self.advance()

    def abandon(self) -> None:
        """The run is no longer ours, or this worker stops: end everything in flight and write nothing more."""
        self._gone = True
        self._work.leave()
        self._stop_timer()

    def _hand_back(self) -> None:
        """While draining: back into the queue as soon as nothing is in flight."""
        if self._leaving is None and not self._work.running:
            self._park(None)

    def _snapshot(self, *, confirmed: bool) -> d.Snapshot:
        r, work = self.results, self._work
        return d.Snapshot(
            r.settled, r.durable, work.running, tuple(work.retries.items()), r.failed, self._cancelled, confirmed,
            self._deadline, r.part, work.observed() if work.items else (),
        )  # fmt: skip

    def _carry_out(self, commands: list[d.Command], now: int) -> bool:
        """Whether something changed, so that there may be more to do at once."""
        changed = False
        for command in commands:
            if isinstance(command, d.Start):
                self._work.start(self.loaded.revision.steps[command.step], now)
            elif isinstance(command, d.StartItem | d.Gather):
                self._go_on_with_items(command, now)
            else:
                changed |= self._obey(command, now)
                continue
            changed = True
            if self.results.failed >= 0 or self._host.micros() > self._slice:
                break  # the other commands were decided without knowing this
        return changed

    def _obey(self, command: d.Command, now: int) -> bool:
        match command:
            case d.Confirm():
                self._confirm()
            case d.Finish(status=status):
                self._finish(status, now)
            case d.Abort():
                self._work.abort()
                return True
            case d.Sleep(until=until):
                self._wake_at(until)
            case d.ParkUntil(due=due):
                self._park(due)
        return False

    def _go_on_with_items(self, command: d.StartItem | d.Gather, now: int) -> None:
        step = self.loaded.revision.steps[command.step]
        if isinstance(command, d.StartItem):
            self._work.start_item(step, command.item, now)
        else:
            self._work.gather(step, now)

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
        self._work.forget()
        self.results.hand_over(turn.part, turn.at)

    def _park(self, due: int | None) -> None:
        self._leave(Park(self._wakes, due, self._deadline if self.results.part else None))

    def _leave(self, leaving: End | Turn | Park) -> None:
        self._leaving = leaving
        self._stop_timer()
        if not isinstance(leaving, Turn):
            self._host.idle(self)

    def collect(self) -> FlushEntry:
        """What the run has to say, for the journal; what is too much for one flush comes with the following ones."""
        pending = self._work.pending
        count = portion(pending)
        attempts, self._work.pending = pending[:count], pending[count:]
        entry = FlushEntry(self.run.id, self.run.fence, attempts)
        self._touch = False
        self._sent = entry
        if self._work.pending:
            ended = (self.loaded.steps[a.step].bit for a in attempts if a.item < 0 and a.retry_at is None)
            self._sent_settled = reduce(or_, ended, self.results.durable) & self.results.settled
            return entry
        if isinstance(self._leaving, End):
            entry.end = self._leaving
        elif isinstance(self._leaving, Park):
            entry.park = self._leaving
        elif isinstance(self._leaving, Turn):
            entry.turn = self._leaving
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
            self._work.resume()
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

    def defect(self, exc: Exception) -> None:
        """The run fails as a whole, by a defect of ours."""
        about = {"run": self.run.id, "namespace": self.loaded.namespace, "workflow": self.loaded.workflow}
        log.error("run %s cannot go on", self.run.id, exc_info=exc, extra=about)
        self._end_broken("InternalError", f"the run could not go on: {type(exc).__name__}: {exc}")

    def _end_broken(self, reason: str, message: str) -> None:
        """The run fails as a whole, whatever its steps say; or its handlers do."""
        self._work.abort()
        self._work.pending.clear()
        self.results.forget_unrecorded()
        self._end_part(self.results.refusal(StepFailure(reason, message), self._host.micros()))
        self._host.dirty(self)
