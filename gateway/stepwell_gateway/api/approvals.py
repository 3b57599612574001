"""Approvals over the API: what waits for somebody, and their decision."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from stepwell.domain.approvals import Decision
from stepwell.engine.approvals import DecidedError
from stepwell_gateway.api import cursors
from stepwell_gateway.api.models import Document
from stepwell_gateway.api.queries import NAME, PageQuery
from stepwell_gateway.api.rules import APPROVE, PAYLOADS
from stepwell_gateway.api.table import answer
from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from starlette.responses import Response

    from stepwell.domain.approvals import Approval
    from stepwell_gateway.api.table import Call

HIDDEN = (
    "messages are left out: reading them takes the right to update workflows/approvals or to get workflows/payloads"
)


class ApprovalsQuery(PageQuery):
    """Which approvals."""

    workflow: Annotated[str | None, Field(pattern=NAME, description="Only of this workflow.")] = None


class DecisionBody(Document):
    """What to say to it."""

    comment: str | None = Field(None, max_length=4096)
    data: Any = Field(None, description="A document for the steps that follow: steps.<name>.output.data.")


class ApprovalDocument(Document):
    """A step that waits for a decision."""

    run_id: str
    workflow: str
    step: str
    opened_at: datetime
    due_at: datetime | None = Field(description="When it is decided by itself.")
    message: str | None = None


class ApprovalPage(Document):
    """Approvals that wait, those of the oldest run first."""

    approvals: list[ApprovalDocument]
    cursor: str | None
    note: str = ""


class DecisionDocument(Document):
    """A decision that stands."""

    run_id: str
    step: str
    decision: Literal["Approved", "Rejected"]
    by: str


async def list_approvals(call: Call) -> Response:
    """A page of what waits for somebody."""
    query = call.query
    about = ("approvals", call.namespace, query.workflow)
    after = _place(cursors.opened(query.cursor, *about)) if query.cursor else None
    found = await call.room.questions.pending(call.namespace, query.workflow, after, query.limit + 1)
    page = found[: query.limit]
    cursor = cursors.seal(f"{page[-1].run_id}/{page[-1].step}", *about) if len(found) > len(page) else None
    shown = await _may_read(call, query.workflow or "")
    documents = [_document(approval, shown=shown) for approval in page]
    return answer(ApprovalPage(approvals=documents, cursor=cursor, **({} if shown else {"note": HIDDEN})))


async def approve_step(call: Call) -> Response:
    """200 once the decision is durable. 409 where another one stands, or the run is over."""
    return await _decide(call, approved=True)


async def reject_step(call: Call) -> Response:
    """The same, with a no: the step's output says so, and the run goes on."""
    return await _decide(call, approved=False)


async def _decide(call: Call, *, approved: bool) -> Response:
    by = call.caller.identity.user
    step = call.request.path_params["step"]
    decision = Decision(approved, by, call.body.comment, call.body.data)
    try:
        await call.room.approvals.decide(call.namespace, call.of.id, step, decision)
    except DecidedError as exc:
        raise Problem(409, str(exc)) from None
    word: Literal["Approved", "Rejected"] = "Approved" if approved else "Rejected"
    return answer(DecisionDocument(run_id=call.of.id, step=step, decision=word, by=by))


async def _may_read(call: Call, workflow: str) -> bool:
    """Whoever decides has to know on what."""
    return await call.caller.may(APPROVE, workflow) or await call.caller.may(PAYLOADS, workflow)


def _place(text: str) -> tuple[str, str]:
    run, _, step = text.partition("/")
    return run, step


def _document(approval: Approval, *, shown: bool) -> ApprovalDocument:
    return ApprovalDocument(
        run_id=approval.run_id,
        workflow=approval.workflow,
        step=approval.step,
        opened_at=approval.opened_at,
        due_at=approval.due_at,
        **({"message": approval.message} if shown else {}),
    )
