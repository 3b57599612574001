"""``httpCall``: one HTTP exchange, the same bytes at every attempt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from stepwell.actions.http_answer import decode, holds_secret, request_line, shown, unexpected
from stepwell.actions.http_auth import NO_CREDENTIALS, Credentials, check_auth, located, uses_secrets
from stepwell.actions.http_expect import Expectation
from stepwell.actions.http_redirect import STATUSES, follow
from stepwell.actions.http_render import RequestTemplate
from stepwell.domain.action import Outcome
from stepwell.domain.http import HttpRequest
from stepwell.domain.retry import RetryPolicy, StepFailure
from stepwell.domain.secrets import NO_NOTES
from stepwell.domain.trace import span_id, trace_id

if TYPE_CHECKING:
    from stepwell.domain.action import Call, Compiler, EffectAction, Shape
    from stepwell.domain.documents import JsonValue
    from stepwell.domain.expressions import Context
    from stepwell.domain.http import HttpClient, HttpResponse
    from stepwell.domain.http_spec import HttpCall as Spec
    from stepwell.domain.masking import Mask
    from stepwell.domain.secrets import SecretNotes, SecretResolver

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_REPEATABLE = RetryPolicy(limit=3, retry_on=frozenset({"Network", "Timeout", 408, 425, 429, 500, 502, 503, 504}))
_ONCE = RetryPolicy(limit=3, retry_on=frozenset({429, 503}), retry_unsent_on=frozenset({"Network", "Timeout"}))


class HttpCall:
    """The action type ``httpCall``. Without a client it compiles and renders, but cannot perform; without a resolver it
    performs what needs no Secret.
    """

    name: ClassVar[str] = "httpCall"
    effect: ClassVar[bool] = True

    def __init__(
        self, client: HttpClient | None, secrets: SecretResolver | None = None, notes: SecretNotes = NO_NOTES
    ) -> None:
        self._client = client
        self._secrets = secrets
        self._notes = notes

    def compile(self, spec: Spec, compiler: Compiler) -> EffectAction:
        """Compile the templates; refuse what cannot be sent."""
        check_auth(spec, compiler)
        template = RequestTemplate.compile(spec, compiler)
        expectation = Expectation.compile(spec.expect, compiler.at(".expect"))
        calling = _Calling(template, spec, expectation, self._client)
        return _Confidential(calling, spec, self._secrets, self._notes) if uses_secrets(spec) else calling

    def retry(self, spec: Spec) -> RetryPolicy:
        """By the method: what may be repeated is; else only what was not sent, or was refused for now."""
        return _REPEATABLE if spec.method in IDEMPOTENT else _ONCE

    def shape(self, spec: Spec, given: Shape) -> Shape:  # noqa: ARG002 - the protocol's signature
        """Not known: it is what the server answers."""
        return None


class _Calling:
    __slots__ = ("_client", "_expectation", "_follow", "_max_bytes", "_template")

    def __init__(
        self, template: RequestTemplate, spec: Spec, expectation: Expectation, client: HttpClient | None
    ) -> None:
        self._template = template
        self._client = client
        self._expectation = expectation
        self._follow = spec.follow_redirects
        self._max_bytes = spec.max_response_bytes

    def render(self, value: JsonValue, context: Context) -> HttpRequest:  # noqa: ARG002 - the protocol's signature
        return self._template.render(context)

    async def perform(self, request: HttpRequest, call: Call, context: Context) -> Outcome:
        return await self.exchange(addressed(request, call), NO_CREDENTIALS, call.timeout, context)

    async def exchange(
        self, request: HttpRequest, credentials: Credentials, seconds: float, context: Context
    ) -> Outcome:
        """All requests of one attempt, and what the last answer means."""
        mask = credentials.mask
        request, response = await self._follow_all(request, credentials, seconds)
        if not self._expectation.takes(response.status):
            raise unexpected(request, response, mask)
        http = shown(response, mask)
        try:
            if response.failure is not None:
                raise response.failure
            output = decode(response, self._max_bytes)
        except StepFailure as failure:
            named = _named(_quoting_nothing(failure, response, mask), request, mask)
            named.http = http
            raise named from failure.__cause__
        outcome = Outcome(mask.value(output), http)
        self._expectation.check(outcome, context, request, response, mask)
        return outcome

    async def _follow_all(
        self, request: HttpRequest, credentials: Credentials, seconds: float
    ) -> tuple[HttpRequest, HttpResponse]:
        """The last request and its answer, after at most three redirects, all within ``seconds``."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        followed = 0
        while True:
            response = await self._send(request, credentials, deadline - clock(), again=followed > 0)
            if not self._follow or response.status not in STATUSES or self._expectation.takes(response.status):
                return request, response
            if response.failure is not None and response.failure.kind == "Timeout":
                raise _named(response.failure, request, credentials.mask)
            request = follow(request, response, followed, credentials.mask)
            credentials = credentials.leave(request)
            followed += 1

    async def _send(
        self, request: HttpRequest, credentials: Credentials, seconds: float, *, again: bool
    ) -> HttpResponse:
        if self._client is None:
            raise StepFailure("NoHttpClient", "this process has no HTTP client", sent=False, final=True)
        signed = request if credentials is NO_CREDENTIALS else credentials.sign(request)
        try:
            return await self._client.send(signed, seconds=seconds, max_bytes=self._max_bytes)
        except StepFailure as failure:
            failure.sent = failure.sent or again
            if again and failure.kind == "Timeout":
                failure.message += ", which is what the requests before it had left of the timeout"
            raise _named(failure, request, credentials.mask) from failure.__cause__


class _Confidential:
    """The same with Secrets. What leaves ``perform`` is masked, also a failure, behind which nothing else is chained:
    a library's exception may quote a header or a URL.
    """

    __slots__ = ("_calling", "_notes", "_secrets", "_spec")

    def __init__(self, calling: _Calling, spec: Spec, secrets: SecretResolver | None, notes: SecretNotes) -> None:
        self._calling = calling
        self._spec = spec
        self._secrets = secrets
        self._notes = notes

    def render(self, value: JsonValue, context: Context) -> HttpRequest:
        return self._calling.render(value, context)

    async def perform(self, request: HttpRequest, call: Call, context: Context) -> Outcome:
        credentials = NO_CREDENTIALS
        clock = asyncio.get_running_loop().time
        deadline = clock() + call.timeout
        try:
            request, credentials = await self._located(addressed(request, call), call)
            return await self._calling.exchange(request, credentials, deadline - clock(), context)
        except StepFailure as exc:
            failure = exc
        except Exception as exc:  # noqa: BLE001 - its text may hold a secret that is not known yet
            message = f"the call failed unexpectedly: {type(exc).__name__}"
            failure = StepFailure("InternalError", message, final=True)
        raise _masked(failure, credentials.mask)

    async def _located(self, request: HttpRequest, call: Call) -> tuple[HttpRequest, Credentials]:
        if self._secrets is None:
            raise StepFailure("SecretForbidden", "this process reads no Secrets", sent=False, final=True)
        try:
            async with asyncio.timeout(call.timeout):
                note = partial(self._notes.met, call.namespace, call.workflow)
                return await located(request, self._spec, self._secrets, note)
        except TimeoutError as exc:
            message = f"the Secrets could not be read within {call.timeout:g} s"
            raise StepFailure("SecretsUnavailable", message, kind="Network", sent=False) from exc


def _named(failure: StepFailure, request: HttpRequest, mask: Mask) -> StepFailure:
    """The failure with the request in its message."""
    return replace(failure, message=f"{request_line(request, mask)}: {failure.message}")


def _masked(failure: StepFailure, mask: Mask) -> StepFailure:
    http = failure.http and mask.value(failure.http)
    return replace(failure, message=mask.text(failure.message), http=http if isinstance(http, dict) else None)


def _quoting_nothing(failure: StepFailure, response: HttpResponse, mask: Mask) -> StepFailure:
    """What is wrong with an answer may be told with a part of it, cut where a mask finds nothing any more."""
    if failure.reason != "InvalidResponse" or not holds_secret(response, mask):
        return failure
    return replace(failure, message="the answer is not valid; why is not shown, because it repeats a secret")


def addressed(request: HttpRequest, call: Call) -> HttpRequest:
    """The request with its namespace and the headers that name the step's run; the manifest's own win."""
    given = {name.lower() for name, _ in request.headers}
    own = (("Idempotency-Key", call.idempotency_key), ("traceparent", traceparent(call)))
    added = tuple(pair for pair in own if pair[0].lower() not in given)
    return HttpRequest(request.method, request.url, request.headers + added, request.body, call.namespace)


def traceparent(call: Call) -> str:
    """The header of W3C Trace Context: the trace is the run, the span the step."""
    return f"00-{trace_id(call.run_id)}-{span_id(call.idempotency_key)}-01"
