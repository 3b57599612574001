"""The HTTP part of ``stepwell dev``: a gateway on loopback, with a token for the API that only our own user can read."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepwell_gateway.context import LocalAccess, opened
from stepwell_gateway.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.adapters.secrets.local import LocalSecrets
    from stepwell.settings import Settings

ADDRESS = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Served:
    """Where the gateway is, and the token of its API."""

    url: str
    token: str = field(repr=False)

    def hook(self, namespace: str, workflow: str, trigger: str) -> str:
        """The address of a webhook."""
        return f"{self.url}/hooks/{namespace}/{workflow}/{trigger}"


@asynccontextmanager
async def gateway(settings: Settings, found: LocalSecrets) -> AsyncIterator[Served]:
    """Serve while the block runs. Raises UnavailableError where the port is taken."""
    access = LocalAccess(secrets.token_urlsafe(32))
    async with (
        opened(settings, found, local=access) as context,
        serving(context, address=ADDRESS, port=settings.gateway.port, last=0.0) as port,
    ):
        yield Served(f"http://{ADDRESS}:{port}", access.token)
