"""What the gateway has of its cluster: the Secrets of webhooks, and who may use the API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from stepwell.adapters.kube.calls import Observe
from stepwell.adapters.kube.cluster import cluster
from stepwell.adapters.postgres.secret_troubles import noting
from stepwell.adapters.secrets.local import LocalSecrets
from stepwell.domain.access import Access
from stepwell.domain.secrets import SecretNotes, SecretResolver
from stepwell.settings import Settings
from stepwell_gateway.local import NoAccess


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Without a cluster there are no Secrets, and nobody is let in."""

    secrets: SecretResolver
    access: Access
    notes: SecretNotes


@asynccontextmanager
async def surroundings(settings: Settings, called: Observe) -> AsyncIterator[Surroundings]:
    """Those of this process; ``called`` is told of each call to the API server."""
    async with (
        cluster(settings, called) as found,
        noting(settings.database_url or "", "gateway", wanted=found is not None) as notes,
    ):
        if found is None:
            yield Surroundings(LocalSecrets(), NoAccess(), notes)
        else:
            yield Surroundings(found.secrets, found.access, notes)
