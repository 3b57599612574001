"""The gateway's API in tests: callers with rights of their own, and runs in every state."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson
from gateways import NAMESPACE, Gateway, gateway
from protocol import revision

from stepwell.adapters.postgres.approval_store import ApprovalStore
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.domain.access import Identity, UnauthenticatedError
from stepwell.domain.approvals import Question
from stepwell.domain.states import RunStatus, StepStatus
from stepwell.engine.intake import Start
from stepwell.engine.ports import AttemptRecord, ClaimedRun, End, FlushEntry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import httpx

    from stepwell_gateway.context import Context

SPEC = {
    "inputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}},
    "steps": [{"name": "one", "transform": {"value": 1}}, {"name": "two", "transform": {"value": 2}}],
}
ALL = ("create runs", "list runs", "get runs", "get payloads", "update runs", "update approvals")
MICROS = 1_000_000


@dataclass
class FakeAccess:
    """Rights as (user, ``verb subresource``, namespace, workflow), where ``*`` is any workflow and all of the namespace.

    A token is its user's name. ``asked`` notes every question.
    """

    rights: set[tuple[str, str, str, str]] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)

    def give(self, user: str, *acts: str, namespace: str = NAMESPACE, workflow: str = "*") -> None:
        self.users.add(user)
        self.rights |= {(user, act, namespace, workflow) for act in acts}

    async def identify(self, token: str) -> Identity:
        if token not in self.users:
            raise UnauthenticatedError("nobody")
        return Identity(token)

    async def allowed(self, identity: Identity, verb: str, subresource: str, namespace: str, name: str) -> bool:
        act = f"{verb} {subresource}"
        self.asked.append((identity.user, act, namespace, name))
        return any((identity.user, act, namespace, granted) in self.rights for granted in {"*", name} - {""})


@dataclass
class Api:
    """A gateway and its callers; ``root`` may do everything in NAMESPACE."""

    gateway: Gateway
    access: FakeAccess
    session: Session
    runs: PostgresRunStore
    worker: int

    async def call(self, method: str, path: str, user: str | None = "root", **more: Any) -> httpx.Response:
        """A request below the namespace, or to an absolute path."""
        url = path if path.startswith("//") else f"/api/v1/namespaces/{more.pop('namespace', NAMESPACE)}{path}"
        headers = ({"authorization": f"Bearer {user}"} if user else {}) | more.pop("headers", {})
        return await self.gateway.client.request(
            method, url.removeprefix("/") if path.startswith("//") else url, headers=headers, **more
        )

    async def get(self, path: str, user: str = "root", **more: Any) -> Any:
        """The document of a successful GET."""
        response = await self.call("GET", path, user, **more)
        assert response.status_code == 200, response.text
        return response.json()

    async def post(self, path: str, body: Any = None, user: str = "root", **more: Any) -> httpx.Response:
        return await self.call("POST", path, user, json={} if body is None else body, **more)

    # -- runs ----------------------------------------------------------------------------------------------------------

    async def apply(self, name: str = "order", namespace: str = NAMESPACE, spec: Any = SPEC, **fields: Any) -> None:
        new = revision(os.urandom(8), namespace=namespace, name=name, spec=orjson.dumps(spec), **fields)
        await self.gateway.store.apply(new)
        self.gateway.context.intake.active.clear()

    async def queued(self, name: str = "order", namespace: str = NAMESPACE, value: Any = None) -> str:
        started = await self.gateway.context.intake.start(Start(namespace, name, value or {"n": 1}))
        return started.id

    async def running(self, name: str = "order", **more: Any) -> ClaimedRun:
        (run,) = await self.runs.claim(self.worker, [await self.queued(name, **more)], token=1)
        return run

    async def asked(self, step: str = "ask", message: str = "secret words?", **more: Any) -> str:
        """A run whose step waits for a decision."""
        run = await self.queued(**more)
        namespace, workflow = more.get("namespace", NAMESPACE), more.get("name", "order")
        question = Question(run, step, namespace, workflow, message, 1_800_000_000 * MICROS, None)
        assert await ApprovalStore(self.session).ask(question) is None
        return run

    async def flush(self, run: ClaimedRun, attempts: Sequence[AttemptRecord] = (), end: End | None = None) -> None:
        kept = await self.runs.flush(self.worker, [FlushEntry(run.id, run.fence, attempts, end=end)])
        assert run.id in kept

    async def ended(self, name: str = "order", status: RunStatus = RunStatus.SUCCEEDED, **more: Any) -> str:
        """A run whose step ``one`` succeeded, and whose step ``two`` did as the status says."""
        run = await self.running(name, **more)
        good = status is RunStatus.SUCCEEDED
        second = attempt("two", status=StepStatus.SUCCEEDED if good else StepStatus.FAILED, number=1)
        await self.flush(run, [attempt("one"), second], ending(status))
        return run.id


def attempt(
    step: str,
    number: int = 1,
    status: StepStatus = StepStatus.SUCCEEDED,
    at: int = 0,
    output: bytes = b'{"secret":"out"}',
    retry_at: int | None = None,
) -> AttemptRecord:
    """An attempt that ended ``at`` microseconds after some moment."""
    good = status is StepStatus.SUCCEEDED
    moment = 1_800_000_000 * MICROS + at
    return AttemptRecord(
        step, number, status, moment, moment + 1, retry_at, b'"$run"', None, output if good else None,
        None if good else b'{"reason":"Broken","message":"secret words"}', b'{"status":200}',
    )  # fmt: skip


def ending(status: RunStatus) -> End:
    if status is RunStatus.SUCCEEDED:
        return End(status, 1_800_000_009 * MICROS, 8e8, output_from="two")
    return End(status, 1_800_000_009 * MICROS, 8e8, error=b'{"reason":"Broken","message":"secret words","step":"two"}')


@asynccontextmanager
async def api(
    dsn: str, redis_url: str, change: Callable[[Context], Context] = lambda context: context, role: str | None = None
) -> AsyncIterator[Api]:
    """A gateway with a fake cluster behind it, and the workflow ``order``."""
    access = FakeAccess()
    access.give("root", *ALL)
    async with (
        gateway(dsn, redis_url, change=lambda context: change(replace(context, access=access)), role=role) as served,
        Session(dsn, "worker") as session,
    ):
        rows = await session.execute("INSERT INTO workers (host, process, version) VALUES ('h', 1, '0') RETURNING id")
        made = Api(served, access, session, PostgresRunStore(session, session), rows[0][0])
        await made.apply()
        yield made
