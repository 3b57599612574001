"""What the routes do, once the guard has let the call pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.adapters.postgres.run_reader import RunFilter
from stepwell.domain.errors import NotFoundError
from stepwell.domain.states import RunStatus
from stepwell.engine.intake import Start
from stepwell.engine.reruns import NotRepeatableError
from stepwell_gateway.api import cursors
from stepwell_gateway.api.documents import (
    run_detail,
    run_document,
    step_document,
    workflow_detail,
    workflow_document,
)
from stepwell_gateway.api.models import HIDDEN, RunPage, RunReference, StepPage, WorkflowPage
from stepwell_gateway.api.queries import moment
from stepwell_gateway.api.rules import PAYLOADS
from stepwell_gateway.api.table import answer
from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.responses import Response

    from stepwell.engine.ports import Accepted
    from stepwell_gateway.api.table import Call


# -- reading ---------------------------------------------------------------------------------------------------------------


async def list_workflows(call: Call) -> Response:
    """A page of the namespace's workflows."""
    about = ("workflows", call.namespace)
    after = cursors.opened(call.query.cursor, *about) if call.query.cursor else ""
    found = await call.room.reader.workflows(call.namespace, after, call.query.limit + 1)
    page = found[: call.query.limit]
    cursor = cursors.seal(page[-1].name, *about) if len(found) > len(page) else None
    return answer(WorkflowPage(workflows=[workflow_document(call.namespace, w) for w in page], cursor=cursor))


async def get_workflow(call: Call) -> Response:
    """One workflow."""
    found = await call.room.reader.workflow(call.namespace, call.workflow)
    return answer(workflow_detail(call.namespace, found))


async def list_runs(call: Call) -> Response:
    """A page of runs, newest first."""
    query = call.query
    about = ("runs", call.namespace, query.workflow, query.status, query.since)
    wanted = RunFilter(
        namespace=call.namespace,
        workflow=query.workflow,
        status=query.status,
        since=moment(query.since),
        before=cursors.opened(query.cursor, *about) if query.cursor else None,
        limit=query.limit + 1,
    )
    found = await call.room.reader.page(wanted)
    page = found[: query.limit]
    cursor = cursors.seal(page[-1].id, *about) if len(found) > len(page) else None
    return answer(RunPage(runs=[run_document(run) for run in page], cursor=cursor))


async def get_run(call: Call) -> Response:
    """One run, with its payloads for who may read them."""
    payloads = await call.caller.may(PAYLOADS, call.of.workflow)
    return answer(run_detail(call.of, await call.room.reader.documents(call.of) if payloads else None))


async def list_steps(call: Call) -> Response:
    """A page of the run's attempts. It ends early where their documents are large."""
    about = ("steps", call.of.id)
    seen = int(cursors.opened(call.query.cursor, *about)) if call.query.cursor else 0
    payloads = await call.caller.may(PAYLOADS, call.of.workflow)
    page = await call.room.reader.attempts(call.of, seen, call.query.limit, documents=payloads)
    recorded = (await call.room.reader.progress([call.of.id])).get(call.of.id)
    seen += len(page)
    cursor = cursors.seal(str(seen), *about) if page and recorded and recorded.recorded > seen else None
    steps = [step_document(attempt, payloads=payloads) for attempt in page]
    note = {} if payloads else {"note": HIDDEN}
    return answer(StepPage(steps=steps, cursor=cursor, **note))


# -- starting and steering -------------------------------------------------------------------------------------------------


async def start_run(call: Call) -> Response:
    """202 with a new run, durable; 200 with the first one for a key that was used."""
    start = Start(call.namespace, call.workflow, call.body.input, key=call.key, priority=call.body.priority)
    await call.room.quotas.admit(call.namespace)
    accepted = await call.room.intake.start(start)
    return await _accepted(call, accepted)


async def cancel_run(call: Call) -> Response:
    """202 once the cancel is acknowledged: nothing further of the run starts. 409 where it has ended."""
    run = call.of
    found = await call.room.control.cancel(run.namespace, [run.id])
    status = found.get(run.id)
    if status is None:
        now = await call.room.reader.run(run.namespace, run.id)
        if now.status != RunStatus.CANCELLED:
            raise Problem(409, f"the run has ended: it {_ended(now.status)}")
        status = now.status
    return answer(_reference(run.namespace, run.id, RunStatus(status)), 202)


async def retry_run(call: Call) -> Response:
    """A new run that goes on where this one failed."""
    key = call.key
    await call.room.quotas.admit(call.namespace)
    return await _repeated(call, call.room.reruns.retry(call.namespace, call.of.id, key=key))


async def rerun_run(call: Call) -> Response:
    """A new run that does it again. Choosing its input takes the right to payloads: it could be made to show the old one."""
    body, key = call.body, call.key
    if body.input is not None:
        await call.caller.must(PAYLOADS, call.of.workflow)
    await call.room.quotas.admit(call.namespace)
    repeating = call.room.reruns.rerun(call.namespace, call.of.id, value=body.input, from_step=body.from_step, key=key)
    return await _repeated(call, repeating)


async def _repeated(call: Call, repeating: Awaitable[Accepted]) -> Response:
    try:
        accepted = await repeating
    except NotRepeatableError as exc:
        raise Problem(409, str(exc)) from None
    return await _accepted(call, accepted)


async def _accepted(call: Call, accepted: Accepted) -> Response:
    if not accepted.repeated:
        call.room.quotas.started(call.namespace)
        reference = _reference(call.namespace, accepted.id, RunStatus.QUEUED)
        return answer(reference, 202, {"Location": reference.url})
    try:
        status: RunStatus | None = RunStatus((await call.room.reader.run(call.namespace, accepted.id)).status)
    except NotFoundError:
        status = None
    first = _reference(call.namespace, accepted.id, status, input_differs=accepted.input_differs)
    return answer(first, 200, {"Location": first.url})


def _reference(
    namespace: str, run_id: str, status: RunStatus | None, *, input_differs: bool | None = None
) -> RunReference:
    url = f"/api/v1/namespaces/{namespace}/runs/{run_id}"
    more = {} if input_differs is None else {"input_differs": input_differs}
    return RunReference(run_id=run_id, status=status, url=url, **more)


def _ended(status: str) -> str:
    return {"timed_out": "timed out"}.get(status, status)
