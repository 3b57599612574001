"""One connection to the API server, as the pod's service account or the kubeconfig says.

The library is imported with the first of them: half a second of CPU that a process outside of a cluster does not spend.
"""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stepwell.domain.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kubernetes.aio import client

CALL_TIMEOUT = 10.0  #: seconds that one call may take
CONNECTIONS = 32  #: at once


def in_cluster() -> bool:
    """Whether this process runs in a pod that may talk to the API server."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


@asynccontextmanager
async def kube_client() -> AsyncIterator[client.ApiClient]:
    """A client for the block. In a pod its service account, elsewhere the kubeconfig (``KUBECONFIG``, its context).

    Raises UsageError where neither is there.
    """
    from kubernetes.aio import client, config
    from kubernetes.aio.config.config_exception import ConfigException

    configuration = client.Configuration()
    try:
        if in_cluster():
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            place = os.environ.get("KUBECONFIG")  # the library looks at it when it is imported, only then
            await config.load_kube_config(config_file=place, client_configuration=configuration)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as exc:
        message = f"no Kubernetes to talk to: {exc}; run in a pod with a service account, or set KUBECONFIG"
        raise UsageError(message) from exc
    configuration.connection_pool_maxsize = CONNECTIONS
    async with client.ApiClient(configuration) as api:
        yield api


def unavailable(what: str, error: Exception) -> UnavailableError:
    """What a call that got no usable answer is to its caller."""
    return UnavailableError(f"{what}: {_said(error)}")


def _said(error: Exception) -> str:
    """One line; the library's own words for an answer are its headers and its body."""
    status = getattr(error, "status", None)
    if not status:
        return f"the API server is not available: {str(error) or type(error).__name__}"
    try:
        told = json.loads(getattr(error, "body", None) or "")["message"]
    except (ValueError, KeyError, TypeError):
        told = getattr(error, "reason", None) or "without a reason"
    return f"the API server answered {status}: {told}"
