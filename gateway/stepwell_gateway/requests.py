"""Around every request: its id, in and out, and an answer whatever happens within."""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING

from stepwell_gateway.bodies import DisconnectedError
from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FIT = re.compile(rb"[A-Za-z0-9._:/+=-]{1,64}\Z")

log = logging.getLogger(__name__)


class Requests:
    """ASGI middleware. The id is the client's ``X-Request-Id`` where it is fit, else one of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        request_id = _request_id(scope)
        scope["app"] = self  # so that Starlette's router raises 404 and 405, for the handlers to answer
        scope["stepwell.request_id"] = request_id.decode()
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except DisconnectedError:
            return
        except Exception:
            log.exception("a request failed by a defect of Stepwell", extra={"request": request_id.decode()})
            if started:
                raise
            await _defect(request_id.decode()).response()(scope, receive, sending)


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _FIT.match(value):
            return bytes(value)
    return new_request_id().encode()


def new_request_id() -> str:
    """One of ours."""
    return os.urandom(12).hex()


def _defect(request_id: str) -> Problem:
    detail = f"a defect of Stepwell; its log tells more under the request id {request_id}"
    return Problem(500, detail, more={"requestId": request_id})
