"""What a run does at its steps: attempts begin, are in flight, end and are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from stepwell.domain import decide as d
from stepwell.domain.action import Call, Deferred, Outcome
from stepwell.domain.approval_links import hide_links_of, without_links
from stepwell.domain.documents import JsonObject, JsonValue
from stepwell.domain.errors import StepwellError
from stepwell.domain.expressions import Context
from stepwell.domain.retry import StepFailure
from stepwell.domain.revision import Step
from stepwell.domain.states import StepStatus
from stepwell.engine.attempt import attempted
from stepwell.engine.clock import as_micros
from stepwell.engine.crashpoints import crashpoint
from stepwell.engine.failures import as_failure, error_document, http_document, storable
from stepwell.engine.host import Host
from stepwell.engine.items import Items
from stepwell.engine.ports import AttemptRecord, ClaimedRun, RecordedAttempt
from stepwell.engine.results import Results
from stepwell.engine.revisions import LoadedRevision

FRESH = 1_000_000  # microseconds that a confirmation lasts; an effect that could not begin by then is confirmed again
NOTHING = Outcome(None)
NEVER = 1 << 62  # a moment that does not come: the run's time is over before

_STEP = -1  # stands for an index where the step itself is meant


class Trial(NamedTuple):
    """One attempt of a step, or (``item`` from 0 on) of one of its items; ``started`` in microseconds."""

    step: Step
    item: int
    number: int
    started: int


class Owner(Protocol):
    """Whose work it is."""

    def advance(self) -> None:
        """An attempt ended: carry out what can be done now."""

    def defect(self, exc: Exception) -> None:
        """The run cannot go on, by a defect of ours."""


class Work:
    """The attempts of one run. ``pending`` are those that the journal has not collected; ``retries`` says when a step that
    failed, pauses or was deferred may start again, and ``items`` are those of the steps that have begun, by step.
    """

    __slots__ = (
        "_attempts", "_deferred", "_host", "_loaded", "_owner", "_results", "_run", "_running", "_tasks", "items", "pending",
        "retries",
    )  # fmt: skip

    def __init__(self, host: Host, owner: Owner, run: ClaimedRun, loaded: LoadedRevision, results: Results) -> None:
        self._host = host
        self._owner: Owner | None = owner
        self._run = run
        self._loaded = loaded
        self._results = results
        self._attempts: dict[int, int] = {}
        self._deferred = 0
        self._running = 0
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self.items: dict[int, Items] = {}
        self.retries: dict[int, int] = {}
        self.pending: list[AttemptRecord] = []

    @property
    def running(self) -> int:
        """The mask of the steps with an attempt in flight."""
        if not self.items:
            return self._running
        return self._running | sum(1 << index for index, items in self.items.items() if items.running)

    def observed(self) -> tuple[d.Items, ...]:
        """The items of the steps that have begun, of the list whose turn it is."""
        found = (items.observed() for items in self.items.values() if items.step.part is self._results.part)
        return tuple(items for items in found if items is not None)

    # -- beginning -------------------------------------------------------------------------------------------------------

    def start(self, step: Step, now: int) -> None:
        """Run a pure step, begin an effect, or find out what the items of a step are."""
        trial = Trial(step, _STEP, self._attempts.get(step.index, 0) + 1, now)
        self.retries.pop(step.index, None)
        try:
            value = self._results.input_of(step)
            context = self._results.context(step, value)
            if step.condition is not None and trial.number == 1 and not step.condition.test(context):
                self._settle(trial, self._append(trial, StepStatus.SKIPPED))
            elif step.for_each is not None:
                values = step.for_each.values(context)
                self._items_of(step).begin(values, context, now)
            elif step.pause:
                self._let_pass(trial, as_micros(step.action.until(value, context)))  # type: ignore[union-attr]
            elif step.effect:
                self._send(trial, value, context)
            else:
                self._succeed(trial, Outcome(step.action.run(value, context)))  # type: ignore[union-attr]
        except Exception as exc:  # noqa: BLE001 - a defect of an action fails its step, never the worker
            self._fail(trial, as_failure(exc))

    def start_item(self, step: Step, item: int, now: int) -> None:
        """Run the next attempt of an item."""
        items = self.items[step.index]
        trial = Trial(step, item, items.numbers.get(item, 0) + 1, now)
        items.retries.pop(item, None)
        try:
            value, context = self._results.input_of(step), items.context_of(item)
            if step.effect:
                self._send(trial, value, context)
            else:
                self._succeed(trial, Outcome(step.action.run(value, context)))  # type: ignore[union-attr]
        except Exception as exc:  # noqa: BLE001 - as in start
            self._fail(trial, as_failure(exc))

    def gather(self, step: Step, now: int) -> None:
        """Record what the items of a step came to. Their outputs are stored with them, and not again."""
        items = self.items.pop(step.index)
        outcome, error = items.result()
        trial = Trial(step, _STEP, 1, items.started or now)
        status = StepStatus.FAILED if items.failed else StepStatus.SUCCEEDED
        shown, document = (None, None) if error is None else storable(error)
        output = b"[]" if outcome.output == [] else None
        self._results.gathered(step, items.size)
        record = self._append(trial, status, output=output, error=document, items=items.count)
        self._settle(trial, record, outcome, shown)

    def _send(self, trial: Trial, value: JsonValue, context: Context) -> None:
        """Begin an effect."""
        request = trial.step.action.render(value, context)  # type: ignore[union-attr]
        self._mark(trial, in_flight=True)
        crashpoint("before_effect")
        self._tasks[trial.step.index, trial.item] = self._host.spawn(self._perform(trial, request, context))

    def _mark(self, trial: Trial, *, in_flight: bool) -> None:
        """Note that an attempt is in flight, or is not any more."""
        if trial.item < 0:
            self._running = self._running | trial.step.bit if in_flight else self._running & ~trial.step.bit
            return
        items, bit = self.items[trial.step.index], 1 << trial.item
        items.running = items.running | bit if in_flight else items.running & ~bit

    def _let_pass(self, trial: Trial, moment: int) -> None:
        """The step is over at this moment; until then it is no step's turn."""
        if moment <= trial.started:
            self._succeed(trial._replace(started=self._results.since(trial.step)), Outcome(None))
        else:
            self.retries[trial.step.index] = moment

    # -- in flight -------------------------------------------------------------------------------------------------------

    async def _perform(self, trial: Trial, request: Any, context: Any) -> None:
        """One attempt in its own task."""
        place = trial.step.index, trial.item
        task = asyncio.current_task()
        result: Outcome | StepFailure | Deferred | None = None
        if self._may_begin(trial.started):
            result = await attempted(trial.step, self._call(trial), request, context)
            crashpoint("after_effect_before_flush")
        if self._tasks.get(place) is not task:
            return  # aborted, though the action did not end with that
        self._mark(trial, in_flight=False)
        del self._tasks[place]
        try:
            if isinstance(result, Outcome):
                self._succeed(trial, result)
            elif isinstance(result, Deferred):
                self._defer(trial.step, result)
            elif result is not None:
                self._fail(trial, result)
        except Exception as exc:  # noqa: BLE001 - a defect of ours must not end the worker
            if self._owner is not None:
                self._owner.defect(exc)
        if self._owner is not None:
            self._owner.advance()

    def _may_begin(self, started: int) -> bool:
        """Whether what allowed an effect still does: its task may have waited for its turn, or long for its place."""
        fresh = self._host.micros() - started <= FRESH
        return fresh and self._results.failed < 0 and not self._host.draining and self._host.may_act()

    def _call(self, trial: Trial) -> Call:
        return Call(
            namespace=self._loaded.namespace,
            workflow=self._loaded.workflow,
            run_id=self._run.id,
            step=trial.step.name,
            attempt=trial.number,
            timeout=trial.step.timeout,
            idempotency_key=self._identity(trial),
            now=trial.started,
            since=self._results.since(trial.step),
            item=None if trial.item < 0 else trial.item,
        )

    def _identity(self, trial: Trial) -> str:
        """The same for every attempt, and for no other step or item of any run."""
        step = f"{self._run.id}/{trial.step.name}"
        return step if trial.item < 0 else f"{step}/{trial.item}"

    def _defer(self, step: Step, deferred: Deferred) -> None:
        """It starts again at its time, and once something woke the run."""
        self._deferred |= step.bit
        self.retries[step.index] = NEVER if deferred.due is None else deferred.due

    def resume(self) -> None:
        """The run was woken while it is here: what was deferred may look again."""
        for step in self._loaded.revision.steps:
            if self._deferred & step.bit:
                self.retries.pop(step.index, None)
        self._deferred = 0

    def abort(self) -> None:
        """End everything in flight."""
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        self._running = 0
        for items in self.items.values():
            items.running = 0

    def leave(self) -> None:
        """The run leaves this worker: nothing more is done. Owner and work let go of each other, so that no garbage collection
        is needed to free them.
        """
        self.abort()
        self._owner = None

    def forget(self) -> None:
        """What a list of steps still wanted to do is over: another has its turn."""
        self.retries.clear()
        self._deferred = 0
        self.items.clear()

    # -- results ---------------------------------------------------------------------------------------------------------

    def _succeed(self, trial: Trial, outcome: Outcome) -> None:
        try:
            if self._loaded.revision.links:
                outcome = without_links(outcome)
            document, http = self._results.accept(trial.step, outcome, item=trial.item >= 0)
        except StepwellError as exc:
            self._fail(trial, as_failure(exc))
            return
        self._settle(trial, self._append(trial, StepStatus.SUCCEEDED, output=document, http=http), outcome)

    def _fail(self, trial: Trial, failure: StepFailure) -> None:
        if self._loaded.revision.links:
            failure = hide_links_of(failure)
        shown, error = error_document(failure)
        shown_http, http = http_document(failure)
        step = trial.step
        if step.retry.allows(failure, trial.number):
            delay = step.retry.delay(failure, trial.number, self._identity(trial))
            due = self._host.micros() + int(delay * 1e6)
            self._try_again(trial, due)
            self._append(trial, StepStatus.FAILED, error=error, http=http, retry_at=due)
            return
        record = self._append(trial, StepStatus.FAILED, error=error, http=http)
        self._settle(trial, record, Outcome(None, shown_http), shown)

    def _try_again(self, trial: Trial, due: int) -> None:
        if trial.item < 0:
            self._attempts[trial.step.index] = trial.number
            self.retries[trial.step.index] = due
            return
        items = self.items[trial.step.index]
        items.numbers[trial.item] = trial.number
        items.retries[trial.item] = due

    def _settle(
        self, trial: Trial, record: AttemptRecord, outcome: Outcome = NOTHING, shown: JsonObject | None = None
    ) -> None:
        """What was recorded is the final result of the step, or of the item; ``shown`` is its error."""
        if trial.item < 0:
            self._results.settle(trial.step, record.status, record.finished_at, outcome, shown)
            return
        of = self.items[trial.step.index]
        of.settle(trial.item, outcome.output, len(record.output or b"null"), shown)
        if of.failed:
            self._results.doom(trial.step)

    def _append(
        self,
        trial: Trial,
        status: StepStatus,
        *,
        output: bytes | None = None,
        error: bytes | None = None,
        http: bytes | None = None,
        retry_at: int | None = None,
        items: int | None = None,
    ) -> AttemptRecord:
        step, item = trial.step, trial.item
        record = AttemptRecord(
            step.name, trial.number, status, trial.started, self._host.micros(), retry_at, None, None, output, error, http,
            item, items,
        )  # fmt: skip
        if item < 0:
            record.input_from, record.input = self._results.input_reference(step)
        else:
            of = self.items[step.index]
            record.input, record.items = of.document_of(item, links=self._loaded.revision.links), of.count
        self.pending.append(record)
        return record

    # -- what is durable already -----------------------------------------------------------------------------------------

    def replay(self, attempts: Sequence[RecordedAttempt]) -> None:
        """Take durable attempts over: those of items first, for the step itself is put together from them."""
        for attempt in attempts:
            step = self._loaded.steps.get(attempt.step)
            if step is not None and attempt.item >= 0:
                self._replay_item(step, attempt)
        for attempt in attempts:
            step = self._loaded.steps.get(attempt.step)
            if step is not None and attempt.item < 0:
                self._replay_step(step, attempt)

    def _replay_item(self, step: Step, attempt: RecordedAttempt) -> None:
        size = self._items_of(step).restore(attempt)
        if step.part is self._results.part:
            self._results.spend(size)

    def _replay_step(self, step: Step, attempt: RecordedAttempt) -> None:
        """The clocks of two workers may differ, so a later attempt may come first."""
        if attempt.attempt <= self._attempts.get(step.index, 0):
            return
        self._attempts[step.index] = attempt.attempt
        self.retries.pop(step.index, None)
        if attempt.retry_at is None:
            items = self.items.pop(step.index, None)
            listed = None if attempt.items is None or items is None else items.outputs(attempt.items)
            self._results.restore(step, attempt, listed)
            if listed is not None and items is not None:
                self._results.gathered(step, items.size)
        elif step.part is self._results.part:
            self.retries[step.index] = attempt.retry_at

    def _items_of(self, step: Step) -> Items:
        found = self.items.get(step.index)
        if found is None:
            found = self.items[step.index] = Items(step)
        return found
