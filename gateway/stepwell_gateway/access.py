"""Whom the gateway asks who calls its API, and what they may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stepwell.adapters.kube.access import KubeAccess
from stepwell.adapters.kube.calls import KubeCalls
from stepwell.adapters.kube.client import in_cluster, kube_client
from stepwell_gateway.local import NoAccess

if TYPE_CHECKING:
    from stepwell.domain.access import Access


@asynccontextmanager
async def access() -> AsyncIterator[Access]:
    """In a pod the API server; elsewhere nobody, and so nobody is let in."""
    if not in_cluster():
        yield NoAccess()
        return
    async with kube_client() as client:
        yield KubeAccess(KubeCalls(client))
