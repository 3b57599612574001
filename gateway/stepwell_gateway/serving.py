"""The server: the application on a port, with an end that loses no answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from stepwell.domain.errors import UnavailableError
from stepwell_gateway.app import application
from stepwell_gateway.connections import SWEEP, Connection, Gate, sweep

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from stepwell_gateway.context import Context

BACKLOG = 2048  # connections that wait for the loop
KEEP_ALIVE = 75  # seconds that an idle connection is kept
GRACE = 20  # seconds that requests in flight may take once no new ones are taken
LAST = 0.5  # seconds in which connections are still served, each for one more answer, before the port is closed
STEP = 0.02  # seconds between two looks at what is still connected

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(context: Context, *, address: str, port: int, last: float = LAST) -> AsyncIterator[int]:
    """Serve while the block runs; gives the port, which is another where ``port`` is 0. No signal is handled.

    At the end connections are served for ``last`` more seconds and requests in flight are answered; ``context.stopping`` is
    set. Raises UnavailableError where the port cannot be bound.
    """
    gate = Gate(context.settings.gateway.connections)
    server = _server(application(context), gate)
    listener = _bound(address, port)
    spare = listener.dup()  # uvloop takes the other one, and closes it with who waits in its queue
    await server.startup(sockets=[listener])
    work = [asyncio.ensure_future(server.main_loop()), asyncio.ensure_future(_sweeping(server))]
    try:
        yield listener.getsockname()[1]
        context.stopping.set()
        await _let_go(server, gate, spare, last)
    finally:
        spare.close()
        context.stopping.set()
        await server.shutdown(sockets=[listener])
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


def _server(app: ASGIApp, shared: Gate) -> uvicorn.Server:
    class Served(Connection):
        gate = shared

    config = uvicorn.Config(
        app,
        http=Served,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",  # what a client can cause is no warning
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    return server


async def _sweeping(server: uvicorn.Server) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP)
        sweep(_connections(server), loop.time())


async def _let_go(server: uvicorn.Server, gate: Gate, spare: socket.socket, last: float) -> None:
    """Every answer closes its connection now, so that clients turn to others before the port is closed to them; and who
    has connected by then, but not sent yet, may still send.
    """
    gate.draining = True
    for connection in list(_connections(server)):
        connection.drain()
    await asyncio.sleep(last)
    for listening in server.servers:
        listening.close()
    await _take_in(server, spare)
    for _ in range(round(last / STEP)):
        if not _connections(server):
            break
        await asyncio.sleep(STEP)


async def _take_in(server: uvicorn.Server, spare: socket.socket) -> None:
    """Close the port, and serve those whom the kernel had let in before."""
    waiting: list[socket.socket] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            waiting.append(spare.accept()[0])
    spare.close()
    loop = asyncio.get_running_loop()
    for taken in waiting:
        taken.setblocking(False)  # noqa: FBT003 - the name says it
        await loop.connect_accepted_socket(lambda: _protocol(server), taken)


def _protocol(server: uvicorn.Server) -> asyncio.Protocol:
    """As uvicorn makes one for each connection."""
    made: Any = server.config.http_protocol_class
    protocol: asyncio.Protocol = made(config=server.config, server_state=server.server_state, app_state={})
    return protocol


def _connections(server: uvicorn.Server) -> set[Connection]:
    return cast("set[Connection]", server.server_state.connections)


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as exc:
        listener.close()
        message = f"{address} port {port} cannot be served on: {exc.strerror or exc}; set PORT to a free port"
        raise UnavailableError(message) from exc
    listener.setblocking(False)  # noqa: FBT003 - the name says it
    return listener
