"""What one request costs the process that sends it: ``python tests/bench/http_client.py [requests]``.

The server is a raw protocol in a process of its own, so that ``process_time`` counts the client alone. Rows marked with
a library's name run without Stepwell, for comparison, where the library is installed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import uvloop

from stepwell.actions.registry import default_actions
from stepwell.adapters.http.allowances import StaticAllowances
from stepwell.adapters.http.client import AiohttpClient
from stepwell.adapters.http.clients import HttpClients
from stepwell.adapters.http.guard import AddressPolicy
from stepwell.adapters.secrets.local import LocalSecrets
from stepwell.domain.action import Call, Compiler
from stepwell.domain.expressions import STEP_VARIABLES, Context, Scope
from stepwell.domain.http import HttpRequest
from stepwell.domain.http_spec import HttpCall
from stepwell.domain.manifest import load_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.connection import Connection

    from stepwell.domain.http import HttpClient

IN_FLIGHT = 64
RUN = "018f0000-0000-7000-8000-000000000000"
BODY = b'{"ok":true,"user":{"id":42,"email":"a@example.com"}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
SECRETS = """\
apiVersion: v1
kind: Secret
metadata: {name: api, namespace: growth, labels: {stepwell.dev/use: "true"}}
stringData: {token: 0123456789abcdefghijklmnopqrstuvwxyz, username: stepwell-bot, password: correct-horse-battery}
"""
AUTH = {
    "bearer": {"bearer": {"secretRef": {"name": "api", "key": "token"}}},
    "basic": {"basic": {"secretName": "api"}},
}
SENT = b'{"email":"a@example.com"}'
HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip",
    "User-Agent": "bench",
    "Content-Type": "application/json",
    "Idempotency-Key": f"{RUN}/notify",
    "traceparent": "00-018f0000000070008000000000000000-0123456789abcdef-01",
}


class Server(asyncio.Protocol):
    """Answers each request whose end it sees; requests come one at a time on a connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data = getattr(self, "data", b"") + data
        if self.data.endswith(SENT):
            self.data = b""
            self.transport.write(ANSWER)  # type: ignore[attr-defined]


def serve(ready: Connection) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


async def measure(name: str, send: Callable[[], Awaitable[object]], requests: int) -> None:
    async def worker(count: int) -> None:
        for _ in range(count):
            await send()

    async def rounds(count: int) -> None:
        await asyncio.gather(*(worker(count // IN_FLIGHT) for _ in range(IN_FLIGHT)))

    await rounds(IN_FLIGHT * 20)  # connections, caches
    wall, cpu = time.perf_counter(), time.process_time()
    await rounds(requests)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done = requests // IN_FLIGHT * IN_FLIGHT
    print(f"{name:28} {cpu / done * 1e6:7.0f} µs CPU  {wall / done * 1e6:7.0f} µs wall  {done / wall:7.0f} /s")


async def run(port: int, requests: int) -> None:
    url = f"http://127.0.0.1:{port}/users"
    request = HttpRequest("POST", url, tuple(HEADERS.items()), SENT)
    async with AiohttpClient(AddressPolicy(allow_loopback=True)) as client:
        await measure("stepwell", lambda: client.send(request, seconds=30, max_bytes=1 << 20), requests)
    async with HttpClients(StaticAllowances(AddressPolicy(allow_loopback=True))) as clients:
        await measure("stepwell, httpCall", http_call(url, clients), requests)
        for name, auth in AUTH.items():
            await measure(f"stepwell, httpCall, {name}", http_call(url, clients, auth=auth), requests)
    await run_aiohttp(url, requests)
    await run_pyreqwest(url, requests)


def http_call(url: str, client: HttpClient, **fields: Any) -> Callable[[], Awaitable[object]]:
    """The whole action: read Secrets, render, send, read, decode, mask."""
    spec = HttpCall.model_validate({"method": "POST", "url": url, "body": {"email": "{{ email }}"}, **fields})
    secrets = LocalSecrets(load_text(SECRETS, "secrets.yaml"))
    action: Any = default_actions(client, secrets)["httpCall"].compile(
        spec, Compiler(Scope(STEP_VARIABLES, bare=True), "", [])
    )
    context = Context({"input": {"email": "a@example.com"}}, now=datetime.now(UTC))
    call = Call("growth", "welcome", RUN, "notify", 1, 30, f"{RUN}/notify")
    return lambda: action.perform(action.render(None, context), call, context)


async def run_aiohttp(url: str, requests: int) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:

        async def send() -> bytes:
            async with session.post(url, headers=HEADERS, data=SENT) as response:
                return await response.read()

        await measure("aiohttp", send, requests)


async def run_pyreqwest(url: str, requests: int) -> None:
    try:
        from pyreqwest.client import ClientBuilder
    except ImportError:
        return
    async with ClientBuilder().no_proxy().build() as client:

        async def send() -> object:
            response = await client.post(url).headers(HEADERS).body_bytes(SENT).build().send()
            return await response.bytes()

        await measure("pyreqwest", send, requests)


def main() -> None:
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    try:
        uvloop.run(run(here.recv(), int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
