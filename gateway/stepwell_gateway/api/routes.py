"""The routes of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from stepwell_gateway.context import Context


def routes(context: Context) -> list[BaseRoute]:  # noqa: ARG001
    """Everything under ``/api/v1``, and what describes it."""
    return []
