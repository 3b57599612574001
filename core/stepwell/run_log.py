"""Log lines about runs: each attempt and end at DEBUG, the ends that are failures at INFO, a bounded number of them.

A line names the run, its step and the failure's reason, never an input, an output or a message: these hold what users
send.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from stepwell.domain.states import RunStatus
from stepwell.engine.observer import Silent
from stepwell.engine.ports import AttemptRecord, End, FlushEntry, Kept

if TYPE_CHECKING:
    from stepwell.engine.execution import Execution

RATE = 5.0  # lines a second about failures, in the long run
BURST = 50

_TOLD = frozenset({RunStatus.FAILED, RunStatus.TIMED_OUT})

log = logging.getLogger(__name__)


class RunLog(Silent):
    """An observer that logs."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._allowance = _Allowance(monotonic)

    def flushed(
        self,
        entries: Sequence[FlushEntry],
        kept: Mapping[str, Kept],
        active: Mapping[str, Execution],
        seconds: float,  # noqa: ARG002 - the protocol's signature
    ) -> None:
        """See Observer."""
        everything = log.isEnabledFor(logging.DEBUG)
        for entry in entries:
            if not everything and (entry.end is None or entry.end.status not in _TOLD):
                continue
            answer, execution = kept.get(entry.run_id), active.get(entry.run_id)
            if answer is None or execution is None:
                continue
            if everything:
                for attempt in entry.attempts:
                    _tell_attempt(execution, attempt)
            if entry.end is not None and answer.ended:
                self._tell_end(execution, entry)

    def _tell_end(self, execution: Execution, entry: FlushEntry) -> None:
        end = entry.end
        if end is None:
            return
        fields = _fields(execution, status=end.status.value, seconds=(end.finished_at - execution.run.created_at) / 1e6)
        if end.status not in _TOLD:
            log.debug("a run has ended", extra=fields)
        elif self._allowance.take():
            log.info("a run has %s%s", _WORDS[end.status], self._allowance.gap(), extra=fields | _why(end, entry))


def _tell_attempt(execution: Execution, attempt: AttemptRecord) -> None:
    fields = _fields(
        execution,
        step=attempt.step,
        **({} if attempt.item < 0 else {"item": attempt.item}),
        attempt=attempt.attempt,
        status=attempt.status.value,
        seconds=(attempt.finished_at - attempt.started_at) / 1e6,
    )
    if attempt.error is not None:
        fields["reason"] = orjson.loads(attempt.error).get("reason")
    log.debug("an attempt was recorded", extra=fields)


def _why(end: End, entry: FlushEntry) -> dict[str, Any]:
    """The reason, and where it is a step's the step and its last attempt."""
    if end.error is None:
        return {}
    error = orjson.loads(end.error)
    found = {key: error[key] for key in ("reason", "step", "index") if key in error}
    place = error.get("step"), error.get("index", -1)
    attempts = [attempt.attempt for attempt in entry.attempts if (attempt.step, attempt.item) == place]
    return found | ({"attempt": attempts[-1]} if attempts else {})


def _fields(execution: Execution, **more: Any) -> dict[str, Any]:
    loaded = execution.loaded
    return {"run": execution.run.id, "namespace": loaded.namespace, "workflow": loaded.workflow, **more}


_WORDS = {RunStatus.FAILED: "failed", RunStatus.TIMED_OUT: "timed out"}


class _Allowance:
    """`BURST` lines at once, `RATE` a second; counts what it kept back."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._left = float(BURST)
        self._at = monotonic()
        self._untold = 0

    def take(self) -> bool:
        now = self._monotonic()
        self._left = min(float(BURST), self._left + (now - self._at) * RATE)
        self._at = now
        if self._left < 1:
            self._untold += 1
            return False
        self._left -= 1
        return True

    def gap(self) -> str:
        """What the next line says of those that were kept back."""
        untold, self._untold = self._untold, 0
        return f" (so have {untold} before it that are not listed)" if untold else ""
