"""What a trigger's expressions see of a delivery: only what they read is made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from stepwell.domain.documents import JsonObject, JsonValue, check
from stepwell.domain.errors import DocumentError

if TYPE_CHECKING:
    from stepwell.domain.trigger_plan import TriggerPlan
    from stepwell_gateway.hooks.delivery import Delivery

_CONFIDENTIAL = re.compile(r"cookie|.*(authorization|signature|token|secret|password|credential|api-?key)")
"""Names of headers whose values are credentials or signatures."""


def variables(plan: TriggerPlan, delivery: Delivery, body: JsonValue, event: JsonObject) -> dict[str, JsonValue]:
    """The values by their names. Raises DocumentError where the query cannot be stored."""
    found: dict[str, JsonValue] = {"body": body, "event": event, "method": delivery.method}
    if "headers" in plan.variables:
        found["headers"] = headers(plan, delivery)
    if "query" in plan.variables:
        found["query"] = query(delivery)
    if "trigger" in plan.variables:
        found["trigger"] = {"name": plan.name}
    return found


def headers(plan: TriggerPlan, delivery: Delivery) -> JsonObject:
    """By lower-cased names, without credentials and signatures; one that stands twice is joined by commas."""
    webhook = plan.spec.webhook
    signed = webhook.auth.hmac.header if webhook is not None and webhook.auth.hmac is not None else None
    own = signed.lower() if signed else ""
    found: JsonObject = {}
    for raw, value in delivery.headers:
        name, text = raw.decode("latin-1"), value.decode("latin-1")
        if name != own and not _CONFIDENTIAL.match(name):
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def query(delivery: Delivery) -> JsonObject:
    """By names; of those that stand twice, the last. Raises DocumentError."""
    try:
        pairs = parse_qsl(delivery.query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as exc:
        message = f"the query is not percent-encoded UTF-8: {exc}"
        raise DocumentError(message) from exc
    found: JsonObject = dict(pairs)
    check(found, what="the query")
    return found
