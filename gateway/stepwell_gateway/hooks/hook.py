"""The webhook: its answers, in this order.

413 too large, 401 unknown or not signed, 503 suspended or database away, 429 rate or quota, 415 type, 422 not parsable,
200 filtered, 400 input or schema, 202 accepted and durable (200: a repeat).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.domain.errors import AbsentError, ManifestError, StepwellError, UnavailableError
from stepwell.domain.expressions import Context as Values
from stepwell.engine.clock import as_datetime
from stepwell.engine.crashpoints import crashpoint
from stepwell.engine.intake import Start, SuspendedError
from stepwell.engine.ports import Accepted
from stepwell.engine.rates import Limit
from stepwell.metrics.gateway import UNKNOWN
from stepwell_gateway.bodies import DisconnectedError, while_connected
from stepwell_gateway.hooks import answers, cloudevents, vendors
from stepwell_gateway.hooks.auth import NOWHERE, Authentication, Place
from stepwell_gateway.hooks.content import reader_of
from stepwell_gateway.hooks.delivery import Delivery
from stepwell_gateway.hooks.variables import variables
from stepwell_gateway.problems import RETRY_SUSPENDED, Problem, problem_of

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from stepwell.domain.documents import JsonObject, JsonValue
    from stepwell.domain.trigger_plan import TriggerPlan
    from stepwell.domain.triggers import Webhook
    from stepwell.engine.ports import ActiveWorkflow
    from stepwell.metrics.instruments import Labels
    from stepwell_gateway.context import Context

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Found:
    """A webhook that exists."""

    namespace: str
    workflow: str
    active: ActiveWorkflow
    plan: TriggerPlan
    webhook: Webhook


@dataclass(slots=True)
class Call:
    """One request on its way to an answer."""

    began: float
    labels: Labels = UNKNOWN


class Hook:
    """ASGI endpoint of all webhooks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._authentication = Authentication(context.secrets, context.clock, context.notes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One delivery."""
        call = Call(time.perf_counter())
        try:
            response = await self._answer(scope, receive, call)
        except DisconnectedError:
            raise
        except StepwellError as exc:
            problem = problem_of(exc)
            if problem is None:
                self._context.metrics.answered(call.labels, 500)
                raise
            response = problem.response()
        self._context.metrics.answered(call.labels, response.status_code)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, call: Call) -> Response:
        async with self._context.bodies.reading(scope, receive) as body:
            delivery = Delivery(scope["method"], scope["headers"], scope["query_string"], body)
            hook = await self._find(**scope["path_params"])
            auth = hook.webhook.auth if hook is not None and delivery.method == "POST" else None
            place = Place(hook.namespace, hook.workflow) if hook is not None else NOWHERE
            admitted = await self._authentication.admits(place, auth, delivery)
            if hook is None or not admitted:
                raise answers.UNAUTHORIZED
            call.labels = self._context.metrics.workflow(hook.active.workflow_id, hook.namespace, hook.workflow)
            outcome = await self._start(hook, delivery, call.labels)
        return await self._respond(hook, outcome, call, receive) if isinstance(outcome, Accepted) else outcome

    async def _find(self, namespace: str, workflow: str, trigger: str) -> Found | None:
        if not (_NAME.match(namespace) and _NAME.match(workflow)):
            return None
        active = await self._context.intake.active.find(namespace, workflow)
        if active is None:
            return None
        try:
            loaded = await self._context.revisions.get(active.revision_id)
        except ManifestError as exc:  # of a newer version
            message = f"this gateway does not know what {namespace}/{workflow} uses"
            raise UnavailableError(message) from exc
        for plan in loaded.revision.triggers:
            if plan.name == trigger and plan.spec.webhook is not None:
                return Found(namespace, workflow, active, plan, plan.spec.webhook)
        return None

    async def _start(self, hook: Found, delivery: Delivery, labels: Labels) -> Accepted | Response:
        if hook.active.suspended:
            self._context.metrics.suspended(labels)
            message = "the workflow is suspended"
            raise Problem(503, message, headers={"Retry-After": str(RETRY_SUSPENDED)})
        await self._context.quotas.admit(hook.namespace, *_limits(hook))
        read = reader_of(delivery)
        body = read(delivery.body)
        hmac = hook.webhook.auth.hmac
        preset = hmac.preset if hmac is not None else None
        if (greeting := vendors.handshake(preset, delivery, body)) is not None:
            return answers.json(greeting)
        event: JsonObject
        if cloudevents.is_structured(delivery):
            event, body = cloudevents.structured(body)
        else:
            event = cloudevents.binary(delivery)
        values = self._values(hook.plan, delivery, body, event)
        if not _passes(hook.plan, values):
            self._context.metrics.filtered(labels)
            return answers.json({"status": "Filtered"})
        key = vendors.default_key(preset, delivery, body) if hook.plan.key is None else hook.plan.key_of(values)
        start = Start(
            hook.namespace,
            hook.workflow,
            hook.plan.input_of(values, body),
            trigger=hook.plan.name,
            key=key,
            event=True,
        )
        return await self._accepted(start)

    def _values(self, plan: TriggerPlan, delivery: Delivery, body: JsonValue, event: JsonObject) -> Values:
        now = as_datetime(self._context.clock.micros())
        return Values(variables(plan, delivery, body, event), now=now)

    async def _accepted(self, start: Start) -> Accepted:
        try:
            accepted = await self._context.intake.start(start)
        except SuspendedError as exc:
            raise Problem(503, str(exc), headers={"Retry-After": str(RETRY_SUSPENDED)}) from exc
        crashpoint("gateway_after_commit")
        if not accepted.repeated:
            self._context.quotas.started(start.namespace)
        return accepted

    async def _respond(self, hook: Found, accepted: Accepted, call: Call, receive: Receive) -> Response:
        self._context.metrics.accepted(time.perf_counter() - call.began)
        if hook.webhook.respond is not None:
            waiting = self._context.outcomes.wait(accepted.id, hook.webhook.respond.wait, self._context.stopping)
            outcome = await while_connected(waiting, receive)
            if outcome is not None:
                return answers.ended(hook.namespace, accepted.id, outcome)
        if not accepted.repeated:
            return answers.accepted(hook.namespace, accepted.id)
        return answers.repeated(hook.namespace, accepted, await self._context.statuses.get(accepted.id))


def _limits(hook: Found) -> list[Limit]:
    rate = hook.webhook.rate_limit
    if rate is None:
        return []
    name = f"{hook.namespace}/{hook.workflow}/{hook.plan.name}"
    return [Limit(name, rate.limit, max(1, round(rate.per * 1000)))]


def _passes(plan: TriggerPlan, values: Values) -> bool:
    """False also where the condition read a key that is absent."""
    try:
        return plan.admits(values)
    except AbsentError:
        return False
