"""No secret is left anywhere: whole runs against a server that repeats what it was sent in every way that it can think of,
and then a search through everything that was stored, logged, counted or raised.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import html
import json
import logging
import re
from base64 import b64decode, b64encode
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, quote_plus

import orjson
import psycopg
import pytest
import redis
from http_servers import Received, Server, response, serve
from prometheus_client import generate_latest
from psycopg import sql

from stepwell.actions.registry import default_actions
from stepwell.adapters.http.allowances import StaticAllowances
from stepwell.adapters.http.clients import HttpClients
from stepwell.adapters.http.guard import AddressPolicy
from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.adapters.secrets.local import LocalSecrets
from stepwell.domain.manifest import load_text
from stepwell.engine.apply import NewRevision
from stepwell.engine.clock import Clock
from stepwell.engine.intake import Intake, Start
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.observer import Several
from stepwell.engine.revisions import Revisions
from stepwell.metrics.worker import WorkerMetrics
from stepwell.run_log import RunLog
from stepwell.settings import Settings
from stepwell_worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN = 'Kp7wTq2zXv9m/Rb+4 "é&<Jd6sYh3nLc8'
USER = "Zt5gBx1qWm4k-bot"
PASSWORD = "Hf9rDv3cPj7u:/+Ns2aEy6"
PATH = "Qw8eRt5yUi3o/Lk2jHg9fDs4a"
VALUES = (TOKEN, USER, PASSWORD, f"{USER}:{PASSWORD}", PATH)
GRAM = 8  #: characters; what is left of a value must be shorter

SECRETS = """\
apiVersion: v1
kind: Secret
metadata: {name: api, namespace: growth, labels: {stepwell.dev/use: "true"}}
stringData:
  token: %s
  username: %s
  password: %s
  url: %s
"""


def lower_hex(text: str) -> str:
    return re.sub("%..", lambda match: match[0].lower(), text)


def dotnet(text: str) -> str:
    """As .NET writes it in JSON."""
    return "".join(f"\\u{ord(c):04X}" if not c.isascii() or c in "\"&'+<>`" else c for c in text)


def forms(value: str) -> Iterator[str]:
    """Ways to write a value, made without the code under test."""
    yield from (value, quote(value), quote(value, safe=""), quote_plus(value), lower_hex(quote_plus(value)))
    yield from (
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        html.escape(value),
        repr(value),
        dotnet(value),
    )
    for before in range(3):
        encoded = b64encode(b"\0" * before + value.encode() + b"\0" * 3).decode()
        yield encoded[4 : 4 + len(value.encode()) * 4 // 3 - 6]


NEEDLES = {form[at : at + GRAM] for value in VALUES for form in forms(value) for at in range(len(form) - GRAM + 1)}


def found_in(text: str) -> list[str]:
    grams = {text[at : at + GRAM] for at in range(len(text) - GRAM + 1)}
    return sorted(grams & NEEDLES)


# The server


def sent(request: Received) -> list[str]:
    """The credentials of a request."""
    scheme, _, given = (request.header("authorization") or "").partition(" ")
    path, _, query = request.target.partition("?")
    parameters = [value for name, value in parse_qsl(query) if name != "how"]
    values = [given, (request.header("x-api-key") or "").removeprefix("k "), *parameters]
    if scheme == "Basic":
        pair = b64decode(given).decode()
        values += [pair, *pair.split(":", 1)]
    if PATH in path:
        values += [PATH, *PATH.split("/"), request.target]
    return [value for value in values if value]


def said(request: Received) -> list[str]:
    return [
        form
        for value in sent(request)
        for form in (
            value, f"x{value}y", quote(value), quote(value, safe=""), quote_plus(value), lower_hex(quote_plus(value)),
            b64encode(value.encode()).decode(), b64encode(f"a{value}".encode()).decode(),
            b64encode(f"ab{value}".encode()).decode(), html.escape(value), json.dumps(value),
            dotnet(value),
        )
    ]  # fmt: skip


def in_json(request: Received) -> bytes:
    return orjson.dumps({"said": said(request), **{form: {"k": [form]} for form in said(request)}})


def in_text(request: Received) -> bytes:
    return " ".join(said(request)).encode()


def header_lines(request: Received) -> list[str]:
    return [f"X-Echo-{at}: {form}" for at, form in enumerate(said(request)) if form.isprintable()]


def first(request: Received) -> str:
    return sent(request)[0]


JSON = "Content-Type: application/json"
TEXT = "Content-Type: text/plain; charset=utf-8"
ANSWERS: dict[str, Callable[[Received], bytes]] = {
    "json": lambda r: response(in_json(r), JSON),
    "text": lambda r: response(in_text(r), TEXT),
    "zipped": lambda r: response(gzip.compress(in_json(r), mtime=0), JSON, "Content-Encoding: gzip"),
    "headers": lambda r: response(b"{}", *header_lines(r)),
    "unexpected": lambda r: response(in_json(r), JSON, status="201 Created"),
    "error": lambda r: response(in_json(r), JSON, status=f"500 no {first(r)}"),
    "error-page": lambda r: response(b"<p>" + in_text(r), TEXT, *header_lines(r), status="403 Forbidden"),
    "error-late": lambda r: response(b"x" * 290 + first(r).encode() * 99, status="500 Oops"),
    "short": lambda r: response(first(r).encode()[:-3], status="500 Oops", length=999),
    "bad-json": lambda r: response(b"{" + first(r).encode(), JSON),
    "bad-charset": lambda r: response(first(r).encode(), f"Content-Type: text/plain; charset={quote(first(r))}"),
    "bad-encoding": lambda r: response(first(r).encode(), f"Content-Encoding: {first(r)}"),
    "bad-header": lambda r: f"HTTP/1.1 200 OK\r\nX {first(r)}: 1\r\n\r\n".encode(),
    "bad-line": lambda r: f"HTTP/1.1 {first(r)}\r\n\r\n".encode(),
    "large": lambda r: response(first(r).encode() * 9000, TEXT),
    "redirect": lambda r: response(b"", f"Location: http://127.0.0.1:1/?k={quote(first(r), safe='')}", status="302 Go"),
    "redirect-long": lambda r: response(b"", f"Location: ftp://{'x' * 180}{quote(first(r))}", status="302 Go"),
    "redirect-round": lambda r: response(b"", f"Location: {r.target}&again={quote(first(r))}", status="302 Go"),
}
AUTH: dict[str, dict[str, Any]] = {
    "bearer": {"bearer": {"secretRef": {"name": "api", "key": "token"}}},
    "basic": {"basic": {"secretName": "api"}},
    "headers": {"headers": [{"name": "X-Api-Key", "secretRef": {"name": "api", "key": "password"}, "prefix": "k "}]},
    "query": {"query": [{"name": "key", "secretRef": {"name": "api", "key": "token"}}]},
}


async def hostile(request: Received, writer: asyncio.StreamWriter) -> None:
    how = dict(parse_qsl(request.target.partition("?")[2]))["how"]
    if how == "dropped":
        writer.write(f"HTTP/1.1 200 OK\r\nX-Echo: {first(request)}\r\nX-".encode())
    else:
        writer.write(ANSWERS[how](request))
    if how in {"dropped", "short", "bad-header", "bad-line"}:
        await writer.drain()
        writer.close()


# The workflows


def workflow(how: str, auth: str, server: Server) -> dict[str, Any]:
    call: dict[str, Any] = {"method": "POST", "body": {"n": "{{ n }}"}, "query": {"how": how}, "followRedirects": True}
    call |= {"urlFrom": {"secretRef": {"name": "api", "key": "url"}}} if auth == "urlFrom" else {"url": f"{server.url}/x", "auth": AUTH[auth]}  # fmt: skip
    call["expect"] = {"if": f"steps.call.http.status == 200 || '{how}' == ''"}
    call["maxResponseBytes"] = 100_000
    steps = [
        {"name": "first", "transform": {"set": {"n": 1}}},
        {"name": "call", "httpCall": call, "retry": {"limit": 1, "backoff": {"initial": "1ms"}, "retryOn": ["Error", "Network", "5xx"]}, "timeout": "5s"},
        {"name": "copy", "transform": {"value": {"all": "{{ input }}", "http": "{{ steps.call.http }}"}}},
    ]  # fmt: skip
    return {"steps": steps, "output": {"copy": "{{ steps.copy.output }}", "call": "{{ steps.call }}"}}


class System:
    """Intake and a worker in this process."""

    def __init__(self, dsn: str, url: str, secrets: LocalSecrets) -> None:
        self._dsn, self._url, self._secrets = dsn, url, secrets
        self.left = 0
        self.changed = asyncio.Event()
        self.metrics = WorkerMetrics(lambda: None)

    def _on_left(self, *_: object) -> None:
        self.left += 1
        self.changed.set()

    async def run(self, specs: dict[str, dict[str, Any]]) -> None:
        clock = Clock()
        async with AsyncExitStack() as stack:
            queue = ReadyQueue(self._url)
            stack.push_async_callback(queue.close)
            session = await stack.enter_async_context(Session(self._dsn, "intake", clock))
            clients = HttpClients(StaticAllowances(AddressPolicy(allow_loopback=True)))
            actions = default_actions(await stack.enter_async_context(clients), self._secrets)
            store = PostgresIntakeStore(session)
            revisions = Revisions(PostgresRunStore(session, session).revision, actions)
            intake = Intake(store, revisions, Offers(queue), clock)
            settings = Settings(database_url=self._dsn, redis_url=self._url)
            observer = Several(self.metrics, RunLog())
            worker = Worker(settings, queue, actions, on_left=self._on_left, observer=observer)
            taking, working = asyncio.ensure_future(intake.run()), asyncio.ensure_future(worker.run())
            for name, spec in specs.items():
                document = orjson.dumps(spec)
                await store.apply(NewRevision("growth", name, document, document[-32:], [], False, 3600, 3600))
                await intake.start(Start("growth", name, {"n": 1}))
            while self.left < len(specs):
                self.changed.clear()
                await self.changed.wait()
            worker.stop()
            await working
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)


# The search


def in_database(dsn: str) -> Iterator[tuple[str, str]]:
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for schema, table in tables:
            cursor = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, table)))
            for row in cursor:
                for value, column in zip(row, cursor.description or (), strict=True):
                    text = value.decode("latin-1") if isinstance(value, bytes | memoryview) else _text(value)
                    yield f"{table}.{column.name}", text


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def in_redis(url: str) -> Iterator[tuple[str, str]]:
    with redis.Redis.from_url(url) as server:
        for key in server.scan_iter():
            yield "redis", key.decode("latin-1") + (server.dump(key) or b"").decode("latin-1")


def in_logs(records: list[logging.LogRecord]) -> Iterator[tuple[str, str]]:
    formatter = logging.Formatter()
    for record in records:
        yield f"log {record.name}", f"{formatter.format(record)} {record.args!r} {record.__dict__!r}"


def in_exceptions() -> Iterator[tuple[str, str]]:
    gc.collect()  # what nobody holds any more is nobody's to read; aiohttp's own errors quote headers, in cycles
    for candidate in gc.get_objects():
        if isinstance(candidate, BaseException) and type(candidate).__module__.split(".")[0] in {
            "stepwell",
            "aiohttp",
            "ssl",
        }:
            yield f"exception {type(candidate).__name__}", f"{candidate!r} {candidate} {candidate.args!r}"


def test_the_search_finds_what_it_looks_for() -> None:
    for value in VALUES:
        for form in forms(value):
            assert found_in(f"before {form} after")
    assert not found_in("the quick brown fox; ***")


async def test_no_secret_is_left_anywhere(database: str, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("aiohttp", "aiohttp.client", "aiohttp.internal", "asyncio", "stepwell"):
        caplog.set_level(logging.DEBUG, name)
    async with serve(hostile) as server:
        text = SECRETS % tuple(map(json.dumps, (TOKEN, USER, PASSWORD, f"{server.url}/{PATH}")))
        system = System(database, redis_url, LocalSecrets(load_text(text, "secrets.yaml")))
        specs = {
            f"{how}-{auth.lower()}": workflow(how, auth, server)
            for how in (*ANSWERS, "dropped")
            for auth in (*AUTH, "urlFrom")
        }
        await system.run(specs)
    places = [*in_database(database), *in_redis(redis_url), *in_logs(caplog.records), *in_exceptions()]
    places.append(("metrics", generate_latest(system.metrics.registry).decode()))
    leaks = {(place, gram) for place, text in places for gram in found_in(text)}
    assert not leaks
    _did_what_it_should(places, server, len(specs))


def _did_what_it_should(places: list[tuple[str, str]], server: Server, runs: int) -> None:
    """A search after nothing happened finds nothing: the secrets were sent, repeated, and masked in what was stored."""
    for value in (TOKEN, PATH):
        assert any(value in "".join(sent(request)) for request in server.requests)
    assert sum("***" in text for place, text in places if place.endswith(".output_data") or "output" in place) > 20
    errors = [text for place, text in places if place.endswith("error") and "***" in text]
    assert len(errors) > 40
    for reason in ("UnexpectedStatus", "ExpectationFailed", "InvalidResponse", "InvalidRedirect", "ConnectionLost", "ResponseTooLarge"):  # fmt: skip
        assert any(reason in text for place, text in places if "error" in place), reason
    assert len(server.requests) > runs
