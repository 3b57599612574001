"""``GET`` and ``POST /approvals/{token}``. Whoever holds the link may decide; no other account is asked for.

A token that is wrong, expired or of another installation, and one whose step never asked, are the same 404.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.routing import Route

from stepwell.adapters.postgres.approval_store import ApprovalStore
from stepwell.domain.approval_links import approval_links
from stepwell.domain.approvals import Decision
from stepwell.domain.errors import NotFoundError
from stepwell.engine.approvals import Approvals, DecidedError
from stepwell.engine.maintenance.offers import Offers
from stepwell_gateway.approvals import page
from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from stepwell.domain.approvals import Approval
    from stepwell_gateway.context import Context

BY = "link"  # who decided, in the step's output
MAX_COMMENT = 4096  # characters
_DECISIONS = {"approve": True, "reject": False}


def routes(context: Context) -> list[BaseRoute]:
    """The page and its form."""
    pages = Pages(context)
    return [Route("/approvals/{token}", pages.answer, methods=["GET", "POST"], include_in_schema=False)]


class Pages:
    """Reads tokens under the settings' key; without one, no link is good."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._links = approval_links(context.settings.approval_key, "-")
        self._store = ApprovalStore(context.reads)
        self._approvals = Approvals(self._store, Offers(context.queue))

    async def answer(self, request: Request) -> Response:
        """GET shows, POST decides."""
        approval, namespace = await self._found(request.path_params["token"])
        if approval is None:
            return page.said("No such approval", "This link is not good, or it has expired, or nothing waits yet.", 404)
        if request.method != "POST":
            return page.shown(approval)
        async with self._context.bodies.reading(request.scope, request.receive) as raw:
            decision = _decision(raw)
        try:
            await self._approvals.decide(namespace, approval.run_id, approval.step, decision)
        except (DecidedError, NotFoundError):
            return page.said("Too late", "This was decided before, or its run is over.", 409)
        return page.said("Thank you", f"It is {'approved' if decision.approved else 'rejected'}. The run goes on.", 200)

    async def _found(self, token: str) -> tuple[Approval | None, str]:
        link = None if self._links is None else self._links.read(token, self._context.clock.micros())
        namespace = None if link is None else await self._store.namespace(link.run_id, link.step)
        if link is None or namespace is None:
            return None, ""
        return await self._store.state(namespace, link.run_id, link.step), namespace


def _decision(raw: bytes) -> Decision:
    try:
        fields = parse_qs(raw.decode(), max_num_fields=8)
    except ValueError as exc:
        raise Problem(400, "the form cannot be read") from exc
    approved = _DECISIONS.get(fields.get("decision", [""])[0])
    if approved is None:
        raise Problem(400, "decision: it is approve or reject")
    comment = fields.get("comment", [""])[0].strip().replace("\0", "")[:MAX_COMMENT]
    return Decision(approved, BY, comment or None)
