"""The routes of webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from stepwell_gateway.hooks.hook import Hook

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from stepwell_gateway.context import Context


def routes(context: Context) -> list[BaseRoute]:
    """Everything under ``/hooks``, with any method: another than POST is answered as an unknown hook is."""
    return [Route("/hooks/{namespace}/{workflow}/{trigger}", Hook(context), include_in_schema=False)]
