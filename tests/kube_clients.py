"""Clients of an API server, real or not, for tests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from kubernetes.aio import client, config

from stepwell.adapters.kube.calls import KubeCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kube_server import KubeServer


@asynccontextmanager
async def calls_as(kube: KubeServer, user: str, **options: object) -> AsyncIterator[KubeCalls]:
    """Calls to the real server by one of its users."""
    configuration = client.Configuration()
    await config.load_kube_config(config_file=str(kube.user(user)), client_configuration=configuration)
    async with client.ApiClient(configuration) as api:
        yield KubeCalls(api, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def calls_to(url: str, token: str = "ours", **options: object) -> AsyncIterator[KubeCalls]:
    """Calls to whatever answers there."""
    configuration = client.Configuration(host=url, api_key={"BearerToken": f"Bearer {token}"})
    async with client.ApiClient(configuration) as api:
        yield KubeCalls(api, **options)  # type: ignore[arg-type]
