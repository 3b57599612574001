"""Routes that no right of Kubernetes guards, as ``/openapi.json`` tells of them: webhooks, and the pages of approval links.

They stand in no table: what a webhook takes and who may call it is said by its trigger, of which there is any number.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from stepwell_gateway.api.queries import NAME, NAMESPACE
from stepwell_gateway.problems import MEDIA_TYPE

_FORM = "application/x-www-form-urlencoded"
_ANY: dict[str, Any] = {}
_HTML = {"text/html": {"schema": {"type": "string"}}}
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
_REFERENCE = {"application/json": {"schema": {"$ref": "#/components/schemas/RunReference"}}}


def _parameter(name: str, pattern: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}


def _answers(told: dict[int, tuple[str, dict[str, Any]]], problems: dict[int, str]) -> dict[str, Any]:
    found = {status: {"description": text, "content": content} for status, (text, content) in told.items()}
    found |= {
        status: {"description": text or HTTPStatus(status).phrase, "content": _PROBLEM}
        for status, text in problems.items()
    }
    return {str(status): found[status] for status in sorted(found)}


_DONE = (
    "A run that was started before (RunReference), the output where the trigger waits for it, `Filtered` where `if` is"
    " false, or the answer to a vendor's handshake"
)
_DELIVER: dict[str, Any] = {
    "operationId": "deliver",
    "summary": "Deliver to a webhook",
    "description": "Needs what its trigger states under `auth`: a signature, a token, a password, or nothing.",
    "security": [],
    "parameters": [_parameter("namespace", NAMESPACE), _parameter("workflow", NAME), _parameter("trigger", NAMESPACE)],
    "requestBody": {
        "required": False,
        "description": "JSON or any `+json`, a form, or any `text/*`: what the trigger's expressions know as `body`.",
        "content": {
            "application/json": {"schema": _ANY},
            "application/cloudevents+json": {"schema": {"type": "object"}},
            _FORM: {"schema": {"type": "object", "additionalProperties": {"type": "string"}}},
            "text/plain": {"schema": {"type": "string"}},
        },
    },
    "responses": _answers(
        {
            200: (_DONE, {"application/json": {"schema": _ANY}}),
            202: ("The run is durable", _REFERENCE),
        },
        {
            400: "The input cannot be made, or does not fit inputSchema",
            401: "No such webhook, or the delivery does not show that it may",
            403: "In local mode: from another machine, or a page of another origin",
            413: "", 415: "", 422: "",
            429: "The trigger's rateLimit or a quota of the namespace: `quota` names it",
            502: "The trigger waits for the output, and the run did not succeed",
            503: "The workflow is suspended, or PostgreSQL is away",
        },
    ),
}  # fmt: skip

_TOKEN = _parameter("token", "^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$")
_NO_LINK = ("The link is not good, or has expired, or nothing waits yet", _HTML)

_SHOW: dict[str, Any] = {
    "operationId": "show_approval",
    "summary": "Look at an approval by its link; changes nothing",
    "security": [],
    "parameters": [_TOKEN],
    "responses": _answers({200: ("A page with the question", _HTML), 404: _NO_LINK}, {403: "", 503: ""}),
}

_DECIDE: dict[str, Any] = {
    "operationId": "decide_approval",
    "summary": "Decide an approval by its link, once",
    "security": [],
    "parameters": [_TOKEN],
    "requestBody": {
        "required": True,
        "content": {
            _FORM: {
                "schema": {
                    "type": "object",
                    "required": ["decision"],
                    "properties": {"decision": {"enum": ["approve", "reject"]}, "comment": {"type": "string"}},
                }
            }
        },
    },
    "responses": _answers(
        {200: ("It is decided", _HTML), 404: _NO_LINK, 409: ("It was decided before, or its run is over", _HTML)},
        {400: "", 403: "", 413: "", 503: ""},
    ),
}

PATHS: dict[str, dict[str, Any]] = {
    "/hooks/{namespace}/{workflow}/{trigger}": {"post": _DELIVER},
    "/approvals/{token}": {"get": _SHOW, "post": _DECIDE},
}
