"""The gateway as an ASGI application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Router

from stepwell_gateway.api import routes as api
from stepwell_gateway.approvals import routes as approvals
from stepwell_gateway.hooks import routes as hooks
from stepwell_gateway.local import LocalOnly
from stepwell_gateway.problems import HANDLERS
from stepwell_gateway.requests import Requests

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from stepwell_gateway.context import Context


def application(context: Context) -> ASGIApp:
    """All routes; every error is an answer in the form of RFC 9457, and every answer carries a request id."""
    router = Router([*hooks.routes(context), *approvals.routes(context), *api.routes(context)], redirect_slashes=False)
    served: ASGIApp = ExceptionMiddleware(router, HANDLERS)
    return Requests(served if context.local is None else LocalOnly(served))
