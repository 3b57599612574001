"""Where the gateway reads the secrets of webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stepwell.adapters.kube.client import in_cluster
from stepwell.adapters.secrets.local import LocalSecrets
from stepwell.domain.secrets import SecretResolver


@asynccontextmanager
async def secrets() -> AsyncIterator[SecretResolver]:
    """In a pod those of the cluster, elsewhere none."""
    if not in_cluster():
        yield LocalSecrets()
        return
    yield LocalSecrets()
