"""Admission as a part of the operator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import kopf

from stepwell.domain.errors import UnavailableError
from stepwell_operator.admission.certificates import server_context
from stepwell_operator.admission.cluster import KubeConfigurations, KubeWorkflows
from stepwell_operator.admission.files import CertificateFiles
from stepwell_operator.admission.server import AdmissionServer, admission_server
from stepwell_operator.admission.trust import Trust

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from kubernetes.aio import client

    from stepwell.domain.action import Actions
    from stepwell.settings import AdmissionSettings
    from stepwell_operator.context import Context

AGAIN = 5.0  # seconds until a failed step is repeated
OFF = 0  # the port that means: none

Work: TypeAlias = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Runs something beside the caller, under a name."""

log = logging.getLogger(__name__)


class Keeper(Protocol):
    """Keeps the certificate of a server, one step after another."""

    @property
    def pause(self) -> timedelta:
        """The time until the next step."""

    async def step(self) -> bool:
        """Do what is due. Raises UnavailableError."""


@asynccontextmanager
async def admission(registry: kopf.OperatorRegistry, context: Context) -> AsyncIterator[None]:
    """The room. The webhook ends before kopf does, which else waits 5 s for tasks that serve API servers' connections."""
    async with AsyncExitStack() as serving:
        settings = context.settings.operator.admission
        await serving.enter_async_context(webhook(settings, context.api, context.actions, context.work))

        @kopf.on.cleanup(id="admission", registry=registry)
        async def ended(**_: Any) -> None:
            await serving.aclose()

        yield


@asynccontextmanager
async def webhook(
    settings: AdmissionSettings, api: client.ApiClient, actions: Actions, work: Work
) -> AsyncIterator[int]:
    """Serve the webhook while the block runs; its value is the port, 0 where the settings say that there is none.

    The operator goes on where the API server is away or its configuration is missing. Raises UnavailableError where the
    port cannot be bound, UsageError where the certificate's files cannot be used.
    """
    if settings.port == OFF:
        yield OFF
        return
    context = server_context()
    server = AdmissionServer(actions, KubeWorkflows(api))
    keeper = _keeper(settings, api, context)
    if settings.certificates is not None:
        await keeper.step()
    async with admission_server(server, context, settings.address, settings.port) as port:
        keeping = work("admission", keep(keeper))
        try:
            yield port
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])


async def keep(keeper: Keeper) -> None:
    """Step after step, for ever."""
    while True:
        try:
            await keeper.step()
            pause = keeper.pause.total_seconds()
        except UnavailableError as exc:
            log.warning("the admission webhook's certificate is not looked after: %s", exc)
            pause = min(AGAIN, keeper.pause.total_seconds())
        await asyncio.sleep(pause)


def _keeper(settings: AdmissionSettings, api: client.ApiClient, context: ssl.SSLContext) -> Keeper:
    if settings.certificates is not None:
        return CertificateFiles(Path(settings.certificates), context)
    configurations = KubeConfigurations(api, settings.configuration)
    return Trust(configurations, context, timedelta(seconds=settings.lifetime), lambda: datetime.now(UTC))
