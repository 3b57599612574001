"""``httpCall``: one HTTP exchange, the same bytes at every attempt."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from stepwell.actions.http_answer import decode, request_line, shown, unexpected
from stepwell.actions.http_redirect import STATUSES, follow
from stepwell.actions.http_render import RequestTemplate
from stepwell.domain.action import Outcome
from stepwell.domain.http import HttpRequest
from stepwell.domain.retry import RetryPolicy, StepFailure

if TYPE_CHECKING:
    from stepwell.domain.action import Call, Compiler, EffectAction, Shape
    from stepwell.domain.documents import JsonValue
    from stepwell.domain.expressions import Context
    from stepwell.domain.http import HttpClient, HttpResponse
    from stepwell.domain.http_spec import HttpCall as Spec

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_REPEATABLE = RetryPolicy(limit=3, retry_on=frozenset({"Network", "Timeout", 408, 425, 429, 500, 502, 503, 504}))
_ONCE = RetryPolicy(limit=3, retry_on=frozenset({429, 503}), retry_unsent_on=frozenset({"Network", "Timeout"}))


class HttpCall:
    """The action type ``httpCall``. Without a client it compiles and renders, but cannot perform."""

    name: ClassVar[str] = "httpCall"
    effect: ClassVar[bool] = True

    def __init__(self, client: HttpClient | None) -> None:
        self._client = client

    def compile(self, spec: Spec, compiler: Compiler) -> EffectAction:
        """Compile the templates; refuse what cannot be sent and what is not supported yet."""
        _refuse_unsupported(spec, compiler)
        return _Calling(RequestTemplate.compile(spec, compiler), spec, self._client)

    def retry(self, spec: Spec) -> RetryPolicy:
        """By the method: what may be repeated is; else only what was not sent, or was refused for now."""
        return _REPEATABLE if spec.method in IDEMPOTENT else _ONCE

    def shape(self, spec: Spec, given: Shape) -> Shape:  # noqa: ARG002 - the protocol's signature
        """Not known: it is what the server answers."""
        return None


def _refuse_unsupported(spec: Spec, compiler: Compiler) -> None:
    fields = ((".urlFrom", spec.url_from), (".auth", spec.auth), (".tls", spec.tls), (".expect.if", spec.expect.if_))
    for suffix, value in fields:
        if value is not None:
            compiler.refuse("this version of Stepwell does not support this field yet; take it away", suffix)


class _Calling:
    __slots__ = ("_client", "_expected", "_follow", "_max_bytes", "_template")

    def __init__(self, template: RequestTemplate, spec: Spec, client: HttpClient | None) -> None:
        self._template = template
        self._client = client
        self._expected: frozenset[int | str] = frozenset(spec.expect.status)
        self._follow = spec.follow_redirects
        self._max_bytes = spec.max_response_bytes

    def render(self, value: JsonValue, context: Context) -> HttpRequest:  # noqa: ARG002 - the protocol's signature
        return self._template.render(context)

    async def perform(self, request: HttpRequest, call: Call, context: Context) -> Outcome:  # noqa: ARG002 - likewise
        request, response = await self._exchange(_addressed(request, call), call.timeout)
        if not self._expects(response.status):
            raise unexpected(request, response)
        try:
            if response.failure is not None:
                raise response.failure
            output = decode(response, self._max_bytes)
        except StepFailure as failure:
            failure.http = dict(shown(response))
            raise _named(failure, request) from failure.__cause__
        return Outcome(output, shown(response))

    async def _exchange(self, request: HttpRequest, seconds: float) -> tuple[HttpRequest, HttpResponse]:
        """The last request and its answer, after at most three redirects, all within ``seconds``."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        followed = 0
        while True:
            response = await self._send(request, deadline - clock(), again=followed > 0)
            if not self._follow or response.status not in STATUSES or self._expects(response.status):
                return request, response
            request = follow(request, response, followed)
            followed += 1

    async def _send(self, request: HttpRequest, seconds: float, *, again: bool) -> HttpResponse:
        if self._client is None:
            raise StepFailure("NoHttpClient", "this process has no HTTP client", sent=False, final=True)
        try:
            return await self._client.send(request, seconds=seconds, max_bytes=self._max_bytes)
        except StepFailure as failure:
            failure.sent = failure.sent or again
            raise _named(failure, request) from failure.__cause__

    def _expects(self, status: int) -> bool:
        return status in self._expected or f"{status // 100}xx" in self._expected


def _named(failure: StepFailure, request: HttpRequest) -> StepFailure:
    """The failure with the request in its message."""
    return replace(failure, message=f"{request_line(request)}: {failure.message}")


def _addressed(request: HttpRequest, call: Call) -> HttpRequest:
    """The request with the headers that name the step's run; the manifest's own win."""
    given = {name.lower() for name, _ in request.headers}
    own = (("Idempotency-Key", call.idempotency_key), ("traceparent", traceparent(call)))
    added = tuple(pair for pair in own if pair[0].lower() not in given)
    return HttpRequest(request.method, request.url, request.headers + added, request.body)


def traceparent(call: Call) -> str:
    """W3C Trace Context, level 1. The trace is the run (its id, for a UUID) and the span the step, at every attempt."""
    trace = call.run_id.replace("-", "").lower()
    if len(trace) != 32 or not set(trace) <= set("0123456789abcdef"):
        trace = hashlib.blake2b(call.run_id.encode(), digest_size=16).hexdigest()
    span = hashlib.blake2b(call.idempotency_key.encode(), digest_size=8).hexdigest()
    return f"00-{trace}-{span}-01"
