"""Why a run failed, readable: the step, its attempts, the request and the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_cli.console import compact, plain, say
from stepwell_cli.steps_table import elapsed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stepwell.adapters.postgres.history_store import RunRecord, StepRecord


def explain(run: RunRecord, steps: Sequence[StepRecord]) -> None:
    """Say it on stderr."""
    for line in lines(run, steps):
        say(line)


def lines(run: RunRecord, steps: Sequence[StepRecord]) -> Iterator[str]:
    """The explanation. A run's error holds its reason and message, and the step where one is to blame."""
    error = run.error or {}
    blamed = error.get("step")
    place = blamed, error.get("index", -1)
    attempts = [step for step in steps if (step.step, step.item_index) == place and step.status == "failed"]
    yield f"run {run.id} {_how(run.status)}{_where(blamed, attempts)}"
    if run.status == "cancelled":
        return
    yield from (f"  {line}" for line in plain(str(error.get("message", ""))).splitlines())
    if error.get("reason"):
        yield f"  reason: {error['reason']}"
    if attempts:
        yield from _attempt(attempts[-1])
    for earlier in attempts[:-1]:
        message = compact((earlier.error or {}).get("message", ""), 300).strip('"')
        yield f"  attempt {earlier.attempt}, {elapsed(earlier.finished_at)} ago: {message}"


def _how(status: str) -> str:
    return {"failed": "failed", "cancelled": "was cancelled", "timed_out": "timed out"}.get(status, status)


def _where(step: object, attempts: Sequence[StepRecord]) -> str:
    if step is None:
        return ""
    last = attempts[-1] if attempts else None
    item = f", item {last.item_index}" if last and last.item_index >= 0 else ""
    tries = f", attempt {last.attempt}" if last and last.attempt > 1 else ""
    return f" at step {step}{item}{tries}"


def _attempt(step: StepRecord) -> Iterator[str]:
    given = "the step's input" if step.item_index < 0 else "the item"
    yield f"  {given}: {compact(step.input)}"
    if step.http is not None:
        headers = step.http.get("headers")
        kind = headers.get("content-type") if isinstance(headers, dict) else None
        yield f"  the answer: status {step.http.get('status')}" + (f", {plain(str(kind))}" if kind else "")
