"""The items of one step with `forEach`, from its begin on: which are over, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from stepwell.domain import decide as d
from stepwell.domain.action import Outcome
from stepwell.domain.approval_links import without_links
from stepwell.domain.documents import JsonObject, JsonValue, dumps
from stepwell.domain.expressions import Context
from stepwell.domain.for_each import item_error, items_error
from stepwell.domain.revision import Step
from stepwell.domain.states import StepStatus
from stepwell.engine.ports import RecordedAttempt

PARALLEL = 10  # where nothing is stated; a step without `forEach` has no items


class Items:
    """Sets of items are bit masks over their indices; times are microseconds.

    What another worker recorded is known before the list is: until ``begin`` there is only that. ``size`` is the number of
    bytes of the list of outputs, ``numbers`` are the latest attempts, ``started`` is when the step began here.
    """

    __slots__ = (
        "_context", "_failures", "_first", "_outputs", "_values", "count", "done", "numbers", "retries", "running", "size",
        "started", "step",
    )  # fmt: skip

    def __init__(self, step: Step) -> None:
        self.step = step
        self.count = 0
        self.done = 0
        self.running = 0
        self.numbers: dict[int, int] = {}
        self.retries: dict[int, int] = {}
        self.size = len("[]")
        self.started = 0
        self._values: Sequence[JsonValue] | None = None
        self._context: Context | None = None
        self._outputs: dict[int, JsonValue] = {}
        self._failures = 0
        self._first: tuple[int, JsonObject] | None = None

    # -- what is known ---------------------------------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """Whether an item failed for good and the step with it."""
        return self._first is not None and not self.step.continue_on_error

    def observed(self) -> d.Items | None:
        """For ``decide``; None: the list is not known yet, and nothing can be said."""
        if self._values is None and not self.failed:
            return None
        left = 0 if self._values is None else (1 << self.count) - 1 & ~self.done
        parallel = self.step.for_each.parallel if self.step.for_each else PARALLEL
        return d.Items(self.step.index, left, self.running, tuple(self.retries.items()), parallel, self.failed)

    def context_of(self, index: int) -> Context:
        """What the expressions of an item see."""
        base = self._begun()
        return Context({**base.variables, "item": self._value(index), "index": index}, now=base.now)

    def document_of(self, index: int, *, links: bool) -> bytes:
        """The item, for the record: the input of its own step run. ``links``: it may hold links that must not be stored."""
        value = self._value(index)
        return dumps(without_links(Outcome(value)).output if links else value)

    def result(self) -> tuple[Outcome, JsonObject | None]:
        """The list of outputs, or of a step that failed nothing; with the error that tells of items that failed."""
        if self._first is None:
            return Outcome(self.outputs(self.count)), None
        if self.failed:
            return Outcome(None), item_error(*self._first)
        return Outcome(self.outputs(self.count)), items_error(self._failures, self.count, *self._first)

    def outputs(self, count: int) -> list[JsonValue]:
        """Those of the first ``count`` items in order; null for one that failed."""
        return [self._outputs.get(index) for index in range(count)]

    # -- what happens ----------------------------------------------------------------------------------------------------

    def begin(self, values: Sequence[JsonValue], context: Context, now: int) -> None:
        """The list is known. Results that were recorded before stand."""
        self._values = values
        self._context = context
        self.count = len(values)
        self.started = now

    def settle(self, index: int, output: JsonValue, size: int, error: JsonObject | None) -> None:
        """The item has its final result; ``size`` is that of its document in bytes."""
        self.done |= 1 << index
        self.retries.pop(index, None)
        self._outputs[index] = output
        self.size += size + len(",")
        if error is not None:
            self._failures += 1
            self._first = self._first or (index, error)

    def restore(self, attempt: RecordedAttempt) -> int:
        """Take a durable attempt of an item over; returns the bytes of its output. The clocks of two workers may differ, so a
        later attempt may come first.
        """
        index = attempt.item
        if attempt.attempt <= self.numbers.get(index, 0):
            return 0
        self.numbers[index] = attempt.attempt
        self.count = attempt.items or 0
        if attempt.retry_at is not None:
            self.retries[index] = attempt.retry_at
            return 0
        error = orjson.loads(attempt.error) if attempt.error and attempt.status == StepStatus.FAILED else None
        output = attempt.output or "null"
        size = len(output) if output.isascii() else len(output.encode())
        self.settle(index, orjson.loads(output), size, error)
        return size if error is None else 0

    def _value(self, index: int) -> JsonValue:
        if self._values is None:
            raise RuntimeError("the items are not known yet")
        return self._values[index]

    def _begun(self) -> Context:
        if self._context is None:
            raise RuntimeError("the items are not known yet")
        return self._context
