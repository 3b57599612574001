"""Workflow resources as a part of the operator."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import kopf

    from stepwell_operator.context import Context


@asynccontextmanager
async def workflows(registry: kopf.OperatorRegistry, context: Context) -> AsyncIterator[None]:  # noqa: ARG001
    """Register the handlers; the work beside them runs until the operator ends."""
    yield
