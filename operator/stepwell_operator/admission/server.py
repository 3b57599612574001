"""The webhook's HTTPS server: a path for each kind, and nothing else.

The framework's own server answers every path, and allows what it has no handler for. Here a path that is not in `PATHS`
is a 404, which an API server takes for a webhook that failed, and says so.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from stepwell.domain.errors import UnavailableError
from stepwell_operator.admission.checks import check_run, check_workflow, workflow_of
from stepwell_operator.admission.reviews import Review, ReviewError, answer, read_review

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from stepwell.domain.action import Actions
    from stepwell.domain.documents import JsonObject
    from stepwell.domain.errors import Problem

PATHS: Mapping[str, str] = {"/validate/workflows": "Workflow", "/validate/workflowruns": "WorkflowRun"}
"""The kind that each path is for."""
MAX_BODY = 8 << 20  # bytes: an object of etcd's limit, twice, and room
CONNECTIONS = 64  # at once; more are closed
HANDSHAKE = 5.0  # seconds that TLS may take to begin
GOODBYE = 1.0  # seconds in which a request may still be answered at the end
READING = 5.0  # seconds that a request's body may take
CHECKING = 4.5  # seconds that a check may take; API servers wait for 5
LOOKING = 1.0  # seconds that a look at the Workflow of a WorkflowRun may take

log = logging.getLogger(__name__)


class Workflows(Protocol):
    """Where Workflows can be looked up."""

    async def find(self, namespace: str, name: str) -> JsonObject | None:
        """The object, None where there is none. Raises UnavailableError."""


@dataclass(slots=True)
class AdmissionServer:
    """Answers reviews. Checks run one at a time in a thread of their own: the largest take half a second."""

    actions: Actions
    workflows: Workflows
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "admission"))

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request."""
        kind = PATHS.get(request.path)
        if kind is None:
            return web.Response(status=404, text=f"there are {', '.join(PATHS)}\n")
        if request.method != "POST":
            return web.Response(status=405, headers={"Allow": "POST"})
        try:
            review = read_review(await _body(request))
            if review.kind != kind:
                message = f"{request.path} is for {kind}, not for {review.kind}"
                raise ReviewError(message)
            async with asyncio.timeout(CHECKING):
                problems, warnings = await self._check(review)
        except ReviewError as exc:
            return web.Response(status=400, text=f"{exc}\n")
        except TimeoutError:
            return web.Response(status=503, text="no time for this review\n")
        body = answer(review.uid, kind, review.name, problems, warnings)
        return web.Response(body=body, content_type="application/json")

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _check(self, review: Review) -> tuple[list[Problem], list[Problem]]:
        loop = asyncio.get_running_loop()
        if review.kind == "Workflow":
            return await loop.run_in_executor(self._thread, check_workflow, review, self.actions)
        if review.operation != "CREATE":
            return [], []  # what may change of a WorkflowRun later is held by the CRD
        name = workflow_of(review)
        try:
            async with asyncio.timeout(LOOKING):
                workflow = await self.workflows.find(review.namespace, name) if name else None
        except (UnavailableError, TimeoutError) as exc:
            log.warning("a WorkflowRun is admitted without a look at its Workflow: %s", str(exc) or "no answer in time")
            return [], []
        return await loop.run_in_executor(self._thread, check_run, review, workflow, self.actions)


async def _body(request: web.BaseRequest) -> bytes:
    parts = bytearray()
    async with asyncio.timeout(READING):
        async for part in request.content.iter_any():
            parts += part
            if len(parts) > MAX_BODY:
                message = f"a review of over {MAX_BODY:,} bytes"
                raise ReviewError(message)
    return bytes(parts)


@asynccontextmanager
async def admission_server(
    server: AdmissionServer, context: ssl.SSLContext, address: str, port: int
) -> AsyncIterator[int]:
    """Serve while the block runs; its value is the port. Raises UnavailableError where it cannot be bound."""
    serving = _Server(server.answer, access_log=None, lingering_time=0)
    try:
        listener = await asyncio.get_running_loop().create_server(
            serving, address, port, ssl=context, ssl_handshake_timeout=HANDSHAKE, ssl_shutdown_timeout=GOODBYE
        )
    except OSError as exc:
        message = (
            f"the admission webhook cannot be served on {address} port {port}: {exc.strerror or exc}; set "
            "STEPWELL_ADMISSION_PORT to a free port, or to 0 to serve none"
        )
        raise UnavailableError(message) from exc
    bound: int = listener.sockets[0].getsockname()[1]
    log.info("the admission webhook is served on %s port %d", address, bound)
    try:
        yield bound
    finally:
        listener.close()
        open_still = serving.let_go()
        await serving.shutdown(GOODBYE)
        for transport in open_still:
            transport.abort()  # API servers keep connections and take their time to say good-bye
        await asyncio.sleep(0)
        server.close()


class _Server(web.Server):
    """Few connections: the API servers' own are enough."""

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]  # a refusal is no request handler
        return super().__call__() if len(self.connections) < CONNECTIONS else _Refusal()

    def let_go(self) -> list[asyncio.Transport]:
        """Let every connection end with the request that it serves now, at once without one; those that were open."""
        found: list[asyncio.Transport | None] = []
        for handler in self.connections:
            found.append(handler.transport)
            handler.close()
        return [transport for transport in found if transport is not None]


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
