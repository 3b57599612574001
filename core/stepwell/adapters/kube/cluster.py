"""What a process has of the cluster that it runs in; None of it where it runs elsewhere."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from stepwell.adapters.http.guard import AddressPolicy
from stepwell.adapters.http.own_services import Endpoint
from stepwell.adapters.kube.access import KubeAccess
from stepwell.adapters.kube.allowances import KubeAllowances
from stepwell.adapters.kube.calls import KubeCalls, Observe
from stepwell.adapters.kube.client import in_cluster, kube_client
from stepwell.adapters.kube.secrets import KubeSecrets
from stepwell.domain.errors import UsageError
from stepwell.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Over one client. ``own`` is the API server, which no ``httpCall`` reaches."""

    secrets: KubeSecrets
    allowances: KubeAllowances
    access: KubeAccess
    own: frozenset[Endpoint]


def uses_cluster(settings: Settings) -> bool:
    """Whether this process reads Secrets and Namespaces of a cluster."""
    mode = settings.kubernetes.mode
    return mode == "on" or (mode == "auto" and in_cluster())


@asynccontextmanager
async def cluster(settings: Settings, observe: Observe = lambda *_: None) -> AsyncIterator[Cluster | None]:
    """The cluster, None where the settings or the place say that there is none.

    Raises UsageError where there should be one and there is neither a service account nor a kubeconfig.
    """
    if not uses_cluster(settings):
        log.info(
            "Secrets and allowances are not read from a cluster (STEPWELL_KUBERNETES=%s)", settings.kubernetes.mode
        )
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(kube_client())
        except UsageError as exc:
            message = f"{exc}; STEPWELL_KUBERNETES=off does without a cluster"
            raise UsageError(message) from exc
        calls = KubeCalls(client, observe=observe)
        yield Cluster(
            KubeSecrets(calls, fresh=settings.kubernetes.secrets_fresh),
            KubeAllowances(calls, AddressPolicy(allow_loopback=settings.allow_loopback)),
            KubeAccess(calls, settings.kubernetes.audiences),
            frozenset({_endpoint(calls.server)}),
        )


def _endpoint(url: str) -> Endpoint:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
