"""A gateway within the test's process: the real application on a loopback port, over a real database."""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import b64encode
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import httpx
import psycopg

from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.session import Session
from stepwell.domain.secrets import USE_LABEL, Secret, SecretError, SecretValue
from stepwell.domain.spec import WorkflowSpec
from stepwell.engine.apply import revision_of
from stepwell.settings import GatewaySettings, Settings
from stepwell_gateway.context import Context, opened
from stepwell_gateway.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from stepwell.domain.secrets import SecretResolver
    from stepwell.engine.ports import ActiveWorkflow

NAMESPACE = "growth"
KEY = b"It's a Secret to Everybody"
STANDARD_KEY = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STEPS = [{"name": "pick", "transform": {"drop": []}}]


class Secrets:
    """A SecretResolver over a dictionary by (namespace, name)."""

    def __init__(self, **secrets: dict[str, bytes]) -> None:
        self.values = {(NAMESPACE, name): values for name, values in secrets.items()}
        self.labels: dict[str, str] = {USE_LABEL: "true"}
        self.fails: SecretError | None = None

    async def get(self, namespace: str, name: str) -> Secret:
        if self.fails is not None:
            raise self.fails
        if (namespace, name) not in self.values:
            raise SecretError("SecretMissing", f"there is no Secret {name}")
        values = {key: SecretValue(value) for key, value in self.values[namespace, name].items()}
        return Secret(namespace, name, values, self.labels)


def vendors_secrets() -> Secrets:
    """Keys under the names that `hmac_of` refers to."""
    return Secrets(hook={"secret": KEY, "next": b"the next key", "standard": STANDARD_KEY})


def hmac_of(key: str = "secret", **fields: Any) -> dict[str, Any]:
    """``auth`` with a signature under the Secret ``hook``."""
    return {"hmac": {"secretRefs": [{"name": "hook", "key": key}], **fields}}


def trigger(auth: dict[str, Any] | None = None, name: str = "hook", **fields: Any) -> dict[str, Any]:
    """A webhook trigger, public where nothing else is said; what `Webhook` holds goes there."""
    webhook = {key: fields.pop(key) for key in ("respond", "rateLimit") if key in fields}
    return {"name": name, "webhook": {"auth": auth or {"public": {}}, **webhook}, **fields}


@dataclass
class Gateway:
    """A gateway that serves."""

    dsn: str
    port: int
    context: Context
    client: httpx.AsyncClient
    store: PostgresIntakeStore = field(repr=False)
    stop: Callable[[], Awaitable[None]] = field(repr=False)

    async def apply(self, *triggers: dict[str, Any], name: str = "welcome", **spec: Any) -> ActiveWorkflow:
        """A workflow of NAMESPACE, active."""
        raw = {"triggers": list(triggers), "steps": STEPS, **spec}
        applied = await self.store.apply(revision_of(NAMESPACE, name, raw, WorkflowSpec.model_validate(raw)))
        self.context.intake.active.clear()
        return applied

    async def post(self, content: bytes | str = b"{}", path: str = "welcome/hook", **more: Any) -> httpx.Response:
        """A delivery; JSON unless the headers say otherwise."""
        headers = {"content-type": "application/json"} | more.pop("headers", {})
        headers = {name: value for name, value in headers.items() if value is not None}
        method = more.pop("method", "POST")
        return await self.client.request(method, f"/hooks/{NAMESPACE}/{path}", content=content, headers=headers, **more)

    def rows(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        """What a statement finds in the database."""
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query, params).fetchall()  # type: ignore[arg-type]

    def inputs(self) -> list[Any]:
        """The inputs of all runs, in the order of their ids."""
        return [row[0] for row in self.rows("SELECT input_data FROM runs ORDER BY id")]

    def count(self) -> tuple[int, int, int]:
        """How many runs, events and keys there are."""
        tables = ("runs", "trigger_events", "idempotency_keys")
        return tuple(self.rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables)  # type: ignore[return-value]


@asynccontextmanager
async def gateway(
    dsn: str,
    redis_url: str,
    secrets: SecretResolver | None = None,
    change: Callable[[Context], Context] = lambda context: context,
    *,
    last: float = 0,
    role: str | None = None,
    **fields: Any,
) -> AsyncIterator[Gateway]:
    """Serving on a free port; ``fields`` are of GatewaySettings, ``role`` is its own DSN, if it is not the tests'."""
    settings = Settings(database_url=role or dsn, redis_url=redis_url, gateway=GatewaySettings(**fields))
    async with (
        opened(settings, secrets or vendors_secrets()) as context,
        AsyncExitStack() as server,
        Session(dsn, "test") as session,
    ):
        port = await server.enter_async_context(serving(change(context), address="127.0.0.1", port=0, last=last))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Gateway(dsn, port, context, client, PostgresIntakeStore(session), server.aclose)


class ClockAt:
    """A clock that stands, for deliveries of long ago."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def micros(self) -> int:
        return int(self.seconds * 1_000_000)


def at(clock: ClockAt) -> Callable[[Context], Context]:
    """Webhooks judge deliveries by this clock; the database goes on with its own."""
    return lambda context: replace(context, clock=clock)  # type: ignore[arg-type]


# -- what senders do ---------------------------------------------------------------------------------------------------


def signature(body: bytes, key: bytes = KEY, algorithm: str = "sha256") -> str:
    """In hexadecimal."""
    return hmac.new(key, body, getattr(hashlib, algorithm)).hexdigest()


def github(body: bytes, key: bytes = KEY, **more: str) -> dict[str, str]:
    return {"x-hub-signature-256": f"sha256={signature(body, key)}", "x-github-event": "push", **more}


def stripe(body: bytes, key: bytes = KEY, sent: float | None = None) -> dict[str, str]:
    seconds = int(time.time() if sent is None else sent)
    return {"stripe-signature": f"t={seconds},v1={signature(f'{seconds}.'.encode() + body, key)}"}


def slack(body: bytes, key: bytes = KEY, sent: float | None = None) -> dict[str, str]:
    seconds = int(time.time() if sent is None else sent)
    signed = signature(f"v0:{seconds}:".encode() + body, key)
    return {"x-slack-signature": f"v0={signed}", "x-slack-request-timestamp": str(seconds)}


def standard(body: bytes, message: str = "msg_1", sent: float | None = None) -> dict[str, str]:
    from base64 import b64decode

    seconds = int(time.time() if sent is None else sent)
    key = b64decode(STANDARD_KEY.removeprefix(b"whsec_"))
    digest = hmac.new(key, f"{message}.{seconds}.".encode() + body, hashlib.sha256).digest()
    signed = b64encode(digest).decode()
    return {"webhook-id": message, "webhook-timestamp": str(seconds), "webhook-signature": f"v1,{signed}"}
