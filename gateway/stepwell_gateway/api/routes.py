"""The routes of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from stepwell_gateway.api.endpoints import ENDPOINTS
from stepwell_gateway.api.openapi import document
from stepwell_gateway.api.page import CONTENT_SECURITY, page
from stepwell_gateway.api.room import room_of
from stepwell_gateway.api.table import route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from stepwell_gateway.context import Context


def routes(context: Context) -> list[BaseRoute]:
    """Everything under ``/api/v1``, and what describes it."""
    room = room_of(context)
    return [*(route(endpoint, room) for endpoint in ENDPOINTS), *_descriptions()]


def _descriptions() -> list[BaseRoute]:
    """Public: they say what this version of Stepwell serves, and nothing of anybody's."""
    described = orjson.dumps(document(ENDPOINTS))
    shown = page(ENDPOINTS)

    async def openapi(_: Request) -> Response:
        return Response(described, media_type="application/json")

    async def docs(_: Request) -> Response:
        return HTMLResponse(shown, headers={"Content-Security-Policy": CONTENT_SECURITY})

    return [Route("/openapi.json", openapi, methods=["GET"]), Route("/docs", docs, methods=["GET"])]
