"""The results of one run's steps in memory: what each hands on, and where that is stored already."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

import orjson

from stepwell.domain.action import Outcome
from stepwell.domain.approval_links import ApprovalLinks, Link
from stepwell.domain.documents import MAX_BYTES, MAX_DEPTH, JsonObject, JsonValue, check, dumps
from stepwell.domain.errors import StepwellError
from stepwell.domain.expressions import Context
from stepwell.domain.handlers import BUDGET, final_status
from stepwell.domain.retry import StepFailure
from stepwell.domain.revision import Part, Revision, Step
from stepwell.domain.scope import LINKS
from stepwell.domain.states import RunStatus, StepStatus
from stepwell.engine.clock import as_datetime, as_text
from stepwell.engine.failures import error_document
from stepwell.engine.ports import RUN_INPUT, ClaimedRun, End, RecordedAttempt
from stepwell.engine.revisions import LoadedRevision

MAX_OUTPUTS = 16 * MAX_BYTES  # bytes, all outputs of a run together

Origin: TypeAlias = "str | dict[str, str] | bytes"
"""Where a value is stored: the run's input, a step's output, a map of these by need; else the value's own document."""

Handed: TypeAlias = tuple[JsonValue, Origin, int]
"""A value, its origin, and its size in bytes."""


class Results:
    """What is settled, and with what result. Sets of steps are bit masks; times are microseconds."""

    __slots__ = (
        "_base", "_bytes", "_errors", "_finished", "_handed", "_http", "_inputs", "_links", "_outputs", "_refused", "_revision", "_run",
        "_run_input", "_sizes", "_statuses", "_workflow", "durable", "error", "failed", "part", "settled",
    )  # fmt: skip

    def __init__(self, run: ClaimedRun, loaded: LoadedRevision, links: ApprovalLinks | None = None) -> None:
        self._links = links
        self._run = run
        self._workflow = loaded.workflow
        self._revision: Revision = loaded.revision
        self._run_input: JsonValue = orjson.loads(run.input)
        self._outputs: dict[int, JsonValue] = {}
        self._sizes: dict[int, int] = {}
        self._handed: dict[int, Handed] = {}
        self._inputs: dict[int, Handed] = {}
        self._refused: dict[int, StepwellError] = {}
        self._statuses: dict[int, StepStatus] = {}
        self._errors: dict[int, JsonValue] = {}
        self._http: dict[int, JsonValue] = {}
        self._finished: dict[int, int] = {}
        self._bytes = 0
        self._base = run.created_at
        self.error: JsonValue = None
        self.part = Part.STEPS
        self.settled = 0
        self.durable = 0
        self.failed = -1

    # -- what a step sees --------------------------------------------------------------------------------------------

    def input_of(self, step: Step) -> JsonValue:
        """What the step's predecessors hand on. Raises StepFailure where that is too large."""
        value = self._input(step)[0]
        if step.index in self._refused:
            raise self._refused[step.index]
        return value

    def input_reference(self, step: Step) -> tuple[bytes | None, bytes | None]:
        """The input for the record, as (reference, None) where it is stored already, else as (None, document)."""
        origin = self._input(step)[1]
        if isinstance(origin, bytes):
            return None, origin
        return _reference(origin) if isinstance(origin, str) else dumps(origin), None

    def context(self, step: Step, value: JsonValue) -> Context:
        """The values that the step's expressions may read; only those that they do read are built."""
        variables: dict[str, JsonValue] = {"input": value}
        if "run" in step.variables:
            variables["run"] = self._run_variable()
        if "steps" in step.variables:
            before = self._all_steps_variable() if step.part else {}
            variables["steps"] = before | self._steps_variable(step.ancestors)
        if "error" in step.variables:
            variables["error"] = self.error
        if LINKS in step.variables:
            variables[LINKS] = self._link_variable()
        return Context(variables, now=as_datetime(self.since(step)))

    def since(self, step: Step) -> int:
        """When the last of what the step needs was finished; at the earliest when the run was created, for a result that
        was copied from another run is older, and of a handler when its list had its turn.
        """
        return max([self._base, *(self._finished[i] for i in step.needs)])

    def _input(self, step: Step) -> Handed:
        found = self._inputs.get(step.index)
        if found is None:
            try:
                found = self._gather(step)
            except StepwellError as exc:
                self._refused[step.index] = exc
                found = (None, b"null", 4)
            self._inputs[step.index] = found
        return found

    def _gather(self, step: Step) -> Handed:
        if not step.needs or step.part:
            return self._run_input, RUN_INPUT, len(self._run.input)
        if len(step.needs) == 1:
            return self._handed_by(step.needs[0])
        handed = {self._revision.steps[i].name: self._handed_by(i) for i in step.needs}
        values: dict[str, JsonValue] = {name: value for name, (value, _, _) in handed.items()}
        size = sum(size for _, _, size in handed.values())
        origins = {name: origin for name, (_, origin, _) in handed.items() if isinstance(origin, str)}
        if len(origins) == len(handed):
            return values, origins, size
        # a map within a map is stored as it is; several of them may share parts, so it is measured before it is written
        if size > MAX_BYTES:
            message = f"the input has about {size:,} bytes; at most {MAX_BYTES:,} are allowed where maps are nested"
            raise StepFailure("InputTooLarge", message, final=True)
        document = dumps(values)
        return values, document, len(document)

    def _handed_by(self, index: int) -> Handed:
        found = self._handed.get(index)
        if found is None:
            step = self._revision.steps[index]
            if self._statuses[index] is StepStatus.SUCCEEDED and not step.hands_on:
                found = (self._outputs[index], step.name, self._sizes[index])
            else:
                found = self._input(step)
            self._handed[index] = found
        return found

    def _run_variable(self) -> JsonObject:
        return {
            "id": self._run.id,
            "input": self._run_input,
            "workflow": self._workflow,
            "namespace": self._run.namespace,
            "createdAt": as_text(self._run.created_at),
            "trigger": self._run.trigger,
        }

    def _steps_variable(self, mask: int) -> dict[str, JsonValue]:
        return {
            step.name: {
                "output": self._outputs.get(step.index),
                "status": self._statuses[step.index].word,
                "error": self._errors.get(step.index),
                "http": self._http.get(step.index),
            }
            for step in self._revision.steps
            if mask & step.bit and step.index in self._statuses
        }

    def _all_steps_variable(self) -> dict[str, JsonValue]:
        """What handlers see of the steps. Those without a result were skipped by the end of the run."""
        nothing: JsonValue = {"output": None, "status": StepStatus.SKIPPED.word, "error": None, "http": None}
        return {step.name: nothing for step in self._revision.main} | self._steps_variable(self._revision.all)

    def _link_variable(self) -> JsonObject:
        """The links of this run, by the step that asks. They live as long as the run may."""
        if self._links is None:
            message = "approvalUrl() needs a key and an address: set STEPWELL_APPROVAL_KEY and STEPWELL_PUBLIC_URL"
            raise StepFailure("NoApprovalLinks", message, final=True)
        expires = self._base + (BUDGET if self.part else int(self._revision.timeout * 1e6))
        asking = (step.name for step in self._revision.steps if step.kind == "approval")
        return {name: self._links.url(Link(self._run.id, name, expires)) for name in asking}

    # -- what a step gives -------------------------------------------------------------------------------------------

    def accept(self, step: Step, outcome: Outcome, *, item: bool = False) -> tuple[bytes, bytes | None]:
        """Serialise an output, and what stands beside it. ``item``: it is that of one item of the step.

        Raises StepFailure where a limit is broken, DocumentError where it is not JSON.
        """
        http = None if outcome.http is None else _stored(outcome.http, "http", step)
        document = _stored(outcome.output, "output", step)
        if self._bytes + len(document) > MAX_OUTPUTS:
            message = f"with this output, the outputs of the run would exceed {MAX_OUTPUTS:,} bytes"
            raise StepFailure("OutputsTooLarge", message, final=True)
        self._bytes += len(document)
        if not item:
            self._sizes[step.index] = len(document)
        return document, http

    def spend(self, size: int) -> None:
        """So many bytes of outputs are there."""
        self._bytes += size

    def gathered(self, step: Step, size: int) -> None:
        """The step's output is the list of its items' outputs, which were counted as they came."""
        self._sizes[step.index] = size

    def doom(self, step: Step) -> None:
        """The step will fail, though something of it may be in flight: nothing else starts."""
        if self.failed < 0 and step.part is self.part:
            self.failed = step.index

    def settle(self, step: Step, status: StepStatus, finished: int, outcome: Outcome, error: JsonValue) -> None:
        """Note the final result of a step."""
        index = step.index
        self._statuses[index] = status
        self._finished[index] = finished
        if status is StepStatus.SUCCEEDED:
            self._outputs[index] = outcome.output
        if error is not None:
            self._errors[index] = error
        if outcome.http is not None:
            self._http[index] = outcome.http
        if status is not StepStatus.FAILED or step.continue_on_error:
            self.settled |= step.bit
        else:
            self.doom(step)

    def restore(self, step: Step, attempt: RecordedAttempt, listed: JsonValue = None) -> None:
        """Note a result that is durable already; ``listed`` is the output that consists of its items' outputs."""
        outcome = Outcome(
            orjson.loads(attempt.output) if attempt.output else listed,
            orjson.loads(attempt.http) if attempt.http else None,
        )
        error = orjson.loads(attempt.error) if attempt.error else None
        if attempt.status == StepStatus.SUCCEEDED:
            self._sizes[step.index] = size = _size(attempt.output or "null")
            self._bytes += size if step.part is self.part and listed is None else 0
        self.settle(step, StepStatus(attempt.status), attempt.finished_at, outcome, error)
        self.durable |= step.bit

    # -- the turn of handlers ----------------------------------------------------------------------------------------

    def hand_over(self, part: int, at: int) -> None:
        """A list of handlers has its turn since ``at``. Their outputs have room of their own."""
        self.part = Part(part)
        self.failed = -1
        self._bytes = 0
        self._base = at

    def keep_error(self, error: JsonValue) -> None:
        """How the steps ended, as handlers see it: null after a success; with a ``step``, though it may be null."""
        self.error = {"step": None, **error} if isinstance(error, dict) else None

    def forget_unrecorded(self) -> None:
        """What is not durable will never be: its rows were dropped."""
        for index in [i for i in self._statuses if not self.durable >> i & 1]:
            for known in (self._statuses, self._finished, self._outputs, self._errors, self._http):
                known.pop(index, None)
        self.settled &= self.durable

    # -- what the run gives ------------------------------------------------------------------------------------------

    def end(self, status: RunStatus, now: int, loaded: LoadedRevision) -> End:
        """The end of the steps, or of the handlers whose turn it is, with its output or its error."""
        if status is RunStatus.SUCCEEDED and self.part:
            return End(status, now, self._revision.retain_succeeded)
        if status is RunStatus.SUCCEEDED:
            try:
                return self._succeeded(now)
            except StepwellError as exc:
                return self.refusal(StepFailure("OutputFailed", f"the workflow's output: {exc}"), now)
        if status is RunStatus.FAILED:
            failed = self._revision.steps[self.failed]
            shown = self._errors.get(failed.index)
            return self._ended(status, now, {**(shown if isinstance(shown, dict) else {}), "step": failed.name})
        if status is RunStatus.TIMED_OUT and self.part:
            message = f"{self.part.word} took longer than {BUDGET // 1_000_000} s"
            return self._ended(status, now, _error("HandlersTimedOut", message))
        if status is RunStatus.TIMED_OUT:
            message = f"the run took longer than {loaded.revision.timeout:g} s"
            return self._ended(status, now, _error("RunTimedOut", message))
        return self._ended(status, now, _error("Cancelled", "the run was cancelled"))

    def end_after_handlers(self, outcome: RunStatus, why: End) -> End:
        """The end of the run after its last handlers, which ended as ``why`` says."""
        status = final_status(outcome, self.part, why.status)
        if status is not outcome:
            return replace(why, status=status)
        revision = self._revision
        retain = revision.retain_succeeded if status is RunStatus.SUCCEEDED else revision.retain_failed
        return End(status, why.finished_at, retain, kept=True)

    def refusal(self, failure: StepFailure, now: int) -> End:
        """The end of a run that failed as a whole."""
        return self._ended(RunStatus.FAILED, now, error_document(failure)[0])

    def _ended(self, status: RunStatus, now: int, error: JsonObject) -> End:
        return End(status, now, self._revision.retain_failed, error=dumps(error))

    def _succeeded(self, now: int) -> End:
        revision = self._revision
        if revision.output is not None:
            output = _stored(revision.output.render(self._closing_context(now)), "output")
            return End(RunStatus.SUCCEEDED, now, revision.retain_succeeded, output=output)
        last = revision.main[-1]
        origin = last.name if self._statuses[last.index] is StepStatus.SUCCEEDED else None
        return End(RunStatus.SUCCEEDED, now, revision.retain_succeeded, output_from=origin)

    def _closing_context(self, now: int) -> Context:
        latest = max(self._finished.values(), default=now)
        variables: dict[str, JsonValue] = {
            "input": self._run_input,
            "run": self._run_variable(),
            "steps": self._steps_variable(self._revision.all),
        }
        return Context(variables, now=as_datetime(latest))


@lru_cache(maxsize=10_000)
def _reference(origin: str) -> bytes:
    return dumps(origin)


def _error(reason: str, message: str) -> JsonObject:
    return {"reason": reason, "message": message}


def _stored(value: JsonValue, word: str, step: Step | None = None) -> bytes:
    """The document of a result. Raises StepFailure where it is too large, DocumentError where it is not JSON."""
    document = dumps(value)
    if len(document) > MAX_BYTES:
        message = f"the {word} has {len(document):,} bytes; at most {MAX_BYTES:,} are allowed"
        raise StepFailure("OutputTooLarge", message, final=True)
    if document.count(b"{") + document.count(b"[") > MAX_DEPTH or b"\\u0000" in document:
        check(value, what=f"the {word}" if step is None else f"the {word} of step {step.name}")
    return document


def _size(document: str) -> int:
    return len(document) if document.isascii() else len(document.encode())
