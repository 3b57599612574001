"""One attempt of a step with an effect: performed under its time limit, and never more than a result."""

from __future__ import annotations

import asyncio
from typing import Any

from stepwell.domain.action import Call, Deferred, Outcome
from stepwell.domain.expressions import Context
from stepwell.domain.retry import StepFailure
from stepwell.domain.revision import Step
from stepwell.engine.current import CALL
from stepwell.engine.failures import as_failure

GRACE = 5.0  # seconds that an effect gets beyond its timeout to say itself that it timed out


async def attempted(step: Step, call: Call, request: Any, context: Context) -> Outcome | StepFailure | Deferred:
    """Perform the step's action once, in the current task, whose log lines name the attempt from now on."""
    CALL.set(call)
    limit = asyncio.timeout(step.timeout + GRACE)
    try:
        async with limit:
            outcome: Outcome = await step.action.perform(request, call, context)  # type: ignore[union-attr]
            return outcome
    except Deferred as exc:
        return exc
    except TimeoutError as exc:
        late = f"the attempt took longer than {step.timeout:g} s"
        return StepFailure("Timeout", late if limit.expired() else str(exc) or "it timed out", kind="Timeout")
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return StepFailure("InternalError", "the action was cancelled from within", final=True)
    except Exception as exc:  # noqa: BLE001 - a defect of an action fails its step, never the worker
        return as_failure(exc)
