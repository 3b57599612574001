"""The routes of webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from stepwell_gateway.context import Context


def routes(context: Context) -> list[BaseRoute]:  # noqa: ARG001
    """Everything under ``/hooks``."""
    return []
