"""Which attempt the current task performs, so that whatever is logged within names its run."""

from __future__ import annotations

from contextvars import ContextVar

from stepwell.domain.action import Call

CALL: ContextVar[Call | None] = ContextVar("stepwell_call", default=None)


def log_fields() -> dict[str, str | int]:
    """The fields of a log line for the attempt that the current task performs; none elsewhere."""
    call = CALL.get()
    if call is None:
        return {}
    item = {} if call.item is None else {"item": call.item}
    return {
        "run": call.run_id,
        "namespace": call.namespace,
        "workflow": call.workflow,
        "step": call.step,
        **item,
        "attempt": call.attempt,
    }
