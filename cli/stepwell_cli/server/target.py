"""Which gateway a command talks to: the one that it is told, else this folder's ``stepwell dev``, else the cluster's."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from stepwell.domain.errors import UsageError
from stepwell_cli.console import say
from stepwell_cli.dev.folder import find
from stepwell_cli.server.client import Client, Server, connected
from stepwell_cli.server.cluster import cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell_cli.server.where import Where


@asynccontextmanager
async def gateway(where: Where) -> AsyncIterator[Client]:
    """A client of the gateway. Raises UsageError where there is none to talk to, UnavailableError."""
    async with _server(where) as server, connected(server, where.namespace) as client:
        yield client


@asynccontextmanager
async def _server(where: Where) -> AsyncIterator[Server]:
    live = None if where.remote else find()
    if where.named is not None:
        yield _told(where.named)
    elif live is not None:
        say(f"using `stepwell dev` in {live.folder}, process {live.pid}")
        yield Server(live.url, live.token)
    elif where.remote or _kubeconfig():
        async with cluster(where.context, where.service_account) as server:
            yield server
    else:
        raise UsageError(
            "there is no gateway to talk to: go to a folder where `stepwell dev` runs, set KUBECONFIG for a cluster's, or"
            " give --server URL with STEPWELL_TOKEN"
        )


def _told(url: str) -> Server:
    token = os.environ.get("STEPWELL_TOKEN", "").strip()
    if not token:
        message = f"set STEPWELL_TOKEN to a bearer token that {url} knows, such as `kubectl create token NAME` prints"
        raise UsageError(message)
    if not _is_address(url):
        message = f"--server {url}: write an address such as https://stepwell.example.com or http://127.0.0.1:8080"
        raise UsageError(message)
    return Server(url.rstrip("/"), token)


def _is_address(url: str) -> bool:
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return found.scheme in {"http", "https"} and bool(found.host) and not found.query and not found.fragment


def _kubeconfig() -> bool:
    return bool(os.environ.get("KUBECONFIG")) or Path("~/.kube/config").expanduser().exists()
