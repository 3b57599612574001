"""The run that a tick starts: the trigger's condition and input, evaluated for it. Pure."""

from __future__ import annotations

from datetime import datetime

from stepwell.domain.documents import JsonObject, check, dumps
from stepwell.domain.errors import DocumentError, EvaluationError, InputError
from stepwell.domain.expressions import Context
from stepwell.domain.ids import deterministic_uuid7
from stepwell.domain.trigger_plan import TriggerPlan
from stepwell.engine.clock import as_datetime, as_micros
from stepwell.engine.ports import NewRun
from stepwell.engine.revisions import LoadedRevision
from stepwell.engine.schedules import Tick

FILTERED = "Filtered"
INVALID_INPUT = "InvalidInput"

_SHOWN = 1_000  # characters of a message that are kept


def tick_of(loaded: LoadedRevision, plan: TriggerPlan, at: datetime, now: int) -> Tick:
    """What the tick ``at`` starts, or why it starts nothing; ``now`` is the leader's time."""
    variables: JsonObject = {"trigger": {"name": plan.name, "scheduledTime": at.isoformat().replace("+00:00", "Z")}}
    context = Context(variables, now=as_datetime(now))
    try:
        if not plan.admits(context):
            return skipped(loaded, plan, at, FILTERED)
    except EvaluationError as exc:
        return skipped(loaded, plan, at, FILTERED, f"if: {exc}")
    try:
        run = _run(loaded, plan, context, at, now)
    except (EvaluationError, InputError, DocumentError) as exc:
        return skipped(loaded, plan, at, INVALID_INPUT, str(exc))
    return Tick(loaded.workflow_id, plan.name, as_micros(at), run)


def skipped(loaded: LoadedRevision, plan: TriggerPlan, at: datetime, reason: str, message: str | None = None) -> Tick:
    """A tick that starts nothing."""
    shown = None if message is None else message.replace("\0", "\\0")[:_SHOWN]
    return Tick(loaded.workflow_id, plan.name, as_micros(at), None, reason, shown)


def run_id(workflow_id: int, trigger: str, at: int, now: int) -> str:
    """The id of a tick's run: whoever fires the tick on the same day makes the same one.

    Its time is the tick's, which decides the partition. A tick of an earlier day, whose partition may never have been made
    or be gone, takes the beginning of this day. That this depends on the day does no harm: the transaction that accepts the run
    records the tick with the id and moves the schedule on, so there is no second time.
    """
    midnight = now - now % 86_400_000_000
    return deterministic_uuid7(max(at, midnight) // 1000, f"cron/{workflow_id}/{trigger}/{at}")


def _run(loaded: LoadedRevision, plan: TriggerPlan, context: Context, at: datetime, now: int) -> NewRun:
    value = plan.input_of(context, {})
    if loaded.revision.input_schema is not None:
        value = loaded.revision.input_schema.validate(value)
    check(value, what="the input")
    return NewRun(
        id=run_id(loaded.workflow_id, plan.name, as_micros(at), now),
        workflow_id=loaded.workflow_id,
        revision_id=loaded.id,
        namespace=loaded.namespace,
        trigger=plan.name,
        input=dumps(value),
        created_at=now,
        priority=loaded.revision.priority,
        key=plan.key_of(context),
    )
