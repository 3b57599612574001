"""The table of routes. Each carries its rule, so none can be served without one; ``openapi.py`` reads the same table."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepwell.adapters.postgres.run_reader import RunSummary
from stepwell.domain.documents import JsonValue, loads
from stepwell.domain.errors import NotFoundError
from stepwell_gateway.api.caller import Caller, identified
from stepwell_gateway.api.models import Document, NoBody
from stepwell_gateway.api.queries import NAME, NAMESPACE, STEP, NoQuery, Query, parsed, problems
from stepwell_gateway.api.rules import Rule
from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from stepwell_gateway.api.room import Room

PREFIX = "/api/v1/namespaces/{namespace}"
MAX_KEY = 256  # bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A request that passed the guard: who calls, and what for. ``run`` is set on routes that name one."""

    room: Room
    request: Request
    caller: Caller
    query: Any
    body: Any
    workflow: str
    run: RunSummary | None

    @property
    def namespace(self) -> str:
        """The one in the path."""
        return self.caller.namespace

    @property
    def of(self) -> RunSummary:
        """The run that the path names."""
        if self.run is None:
            raise TypeError("the route names no run")
        return self.run

    @property
    def key(self) -> str | None:
        """The idempotency key. Raises Problem 400."""
        given = [value for name, value in self.request.scope["headers"] if name == b"idempotency-key"]
        if not given:
            return None
        if len(given) > 1 or not 0 < len(given[0]) <= MAX_KEY:
            raise Problem(400, f"Idempotency-Key: one of 1 to {MAX_KEY} bytes")
        try:
            key: str = given[0].decode()
        except UnicodeDecodeError:
            raise Problem(400, "Idempotency-Key: it is not UTF-8") from None
        if not key.isprintable():
            raise Problem(400, "Idempotency-Key: it holds a character that is not printable")
        return key


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route: what it needs, what it takes, and what it answers (by status; None: no document).

    ``path`` stands below the namespace. ``{name}`` in it is a workflow, ``{run}`` a run; without either, the rule is asked
    of the workflow that the query names, or of all of the namespace.
    """

    method: str
    path: str
    rule: Rule
    handle: Handler
    summary: str
    answers: Mapping[int, type[BaseModel] | None]
    query: type[Query] = NoQuery
    body: type[Document] | None = None
    keyed: bool = False
    streams: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Rule):
            message = f"{self.method} {self.path} has no rule that says who may call it"
            raise TypeError(message)

    @property
    def name(self) -> str:
        """A name of its own, such as ``cancel_run``."""
        return self.handle.__name__


def route(endpoint: Endpoint, room: Room) -> Route:
    """The endpoint behind its guard: identity, then parameters, then the rule, then the body."""

    async def guarded(request: Request) -> Response:
        return await _guarded(endpoint, room, request)

    served = Route(PREFIX + endpoint.path, guarded, methods=[endpoint.method], name=endpoint.name)
    served.methods = {endpoint.method}  # no HEAD by itself
    return served


async def _guarded(endpoint: Endpoint, room: Room, request: Request) -> Response:
    identity = await identified(request, room.access)
    namespace, workflow = _names(request.path_params)
    caller = Caller(identity, namespace, room.access)
    query = parsed(endpoint.query, request.query_params)
    run = None
    if "run" in request.path_params:
        run = await _run(endpoint, room, caller, request.path_params["run"])
    else:
        await caller.must(endpoint.rule, workflow or getattr(query, "workflow", None) or "")
    body = await _body(endpoint, room, request)
    return await endpoint.handle(Call(room, request, caller, query, body, workflow, run))


def _names(params: Mapping[str, str]) -> tuple[str, str]:
    """Namespace and workflow of the path. Nothing has a name that Kubernetes would not take, no step one that we would not."""
    namespace, workflow = params["namespace"], params.get("name", "")
    known = re.fullmatch(NAMESPACE, namespace) and (not workflow or re.fullmatch(NAME, workflow))
    if not known or not re.fullmatch(STEP, params.get("step", "step")):
        raise Problem(404, "nothing has a name like the one in the path")
    return namespace, workflow


async def _run(endpoint: Endpoint, room: Room, caller: Caller, run_id: str) -> RunSummary:
    """The run, for who may. For who may not, one that exists and one that does not are the same 403."""
    try:
        run = await room.reader.run(caller.namespace, run_id)
    except NotFoundError:
        await caller.must(endpoint.rule)
        raise Problem(404, "there is no such run in this namespace") from None
    await caller.must(endpoint.rule, run.workflow)
    return run


async def _body(endpoint: Endpoint, room: Room, request: Request) -> Document | None:
    if endpoint.body is None:
        return None
    async with room.bodies.reading(request.scope, request.receive) as raw:
        if not raw.strip():
            return _checked(endpoint.body, {})
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise Problem(415, "send the body as it is, without Content-Encoding")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Problem(415, "send the body as application/json")
        return _checked(endpoint.body, loads(raw, what="the body"))


def _checked(model: type[Document], value: JsonValue) -> Document:
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        raise Problem(400, problems(exc)) from None


def answer(document: Document, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer that no cache keeps."""
    more = {"Cache-Control": "no-store", **(headers or {})}
    return Response(document.json_bytes(), status, more, "application/json")


__all__ = ["PREFIX", "Call", "Endpoint", "Handler", "NoBody", "answer", "route"]
