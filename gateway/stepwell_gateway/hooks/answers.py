"""What a webhook answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from starlette.responses import Response

from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from stepwell.domain.documents import JsonValue
    from stepwell.engine.outcomes import Outcome
    from stepwell.engine.ports import Accepted

UNAUTHORIZED = Problem(
    401,
    "there is no such webhook, or the delivery does not show that it comes from who may send it",
    headers={"WWW-Authenticate": 'Signature realm="stepwell"'},
)
"""The same for an unknown hook, another method than POST, and whatever is wrong with a signature."""


def url_of(namespace: str, run_id: str) -> str:
    """Where the API tells more of a run."""
    return f"/api/v1/namespaces/{namespace}/runs/{run_id}"


def json(value: JsonValue, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(value), status, headers, "application/json")


def accepted(namespace: str, run_id: str, status: str = "queued") -> Response:
    """202: the run is durable."""
    url = url_of(namespace, run_id)
    return json({"runId": run_id, "status": status, "url": url}, 202, {"Location": url})


def repeated(namespace: str, first: Accepted, status: str | None) -> Response:
    """200: the key led to a run before. ``status`` is None where that run is no longer kept."""
    url = url_of(namespace, first.id)
    body: JsonValue = {"runId": first.id, "status": status, "url": url, "inputDiffers": first.input_differs}
    return json(body, 200, {"Location": url})


def ended(namespace: str, run_id: str, outcome: Outcome) -> Response:
    """What the run made, for who waited; a problem where it did not succeed."""
    url = url_of(namespace, run_id)
    if outcome.status == "succeeded":
        return json(outcome.output, 200, {"Content-Location": url})
    reason = (outcome.error or {}).get("reason")
    more = {"runId": run_id, "runStatus": outcome.status, "url": url} | ({"reason": reason} if reason else {})
    detail = f"the run was accepted and ended as {outcome.status}"
    return Problem(502, detail, title="Run did not succeed", headers={"Content-Location": url}, more=more).response()
