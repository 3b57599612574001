"""``/openapi.json`` (OpenAPI 3.1), made from the table of routes and their models, and of the routes outside of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from stepwell.version import VERSION
from stepwell_gateway.api import open_routes
from stepwell_gateway.api.models import ProblemDocument
from stepwell_gateway.api.queries import NAME, NAMESPACE, STEP
from stepwell_gateway.api.table import MAX_KEY, PREFIX, Endpoint
from stepwell_gateway.problems import MEDIA_TYPE

if TYPE_CHECKING:
    from pydantic import BaseModel

_REF = "#/components/schemas/{model}"
_ALWAYS = (400, 401, 403, 404, 503)
_WITH_BODY = (413, 415, 422)
_EVENT: dict[str, Any] = {
    "description": "One server-sent event: `run` holds a RunDocument, `step` a StepDocument, as JSON text.",
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": r"^\d{1,9}(\.end)?$"},
        "event": {"enum": ["run", "step"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "namespace": {"type": "string", "pattern": NAMESPACE},
    "name": {"type": "string", "pattern": NAME},
    "run": {"type": "string", "format": "uuid"},
    "step": {"type": "string", "pattern": STEP},
}


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The description of these routes, and of those that stand in no table."""
    table = tuple(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in table:
        paths.setdefault(PREFIX + endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stepwell", "version": VERSION, "summary": "Start, follow and steer runs of workflows."},
        "paths": paths | open_routes.PATHS,
        "components": {
            "schemas": _schemas(table),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
    }


def _schemas(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    sent: set[type[BaseModel]] = {e.body for e in endpoints if e.body is not None}
    got: set[type[BaseModel]] = {model for e in endpoints for model in e.answers.values() if model is not None}
    wanted = [(model, "validation") for model in sent] + [(m, "serialization") for m in got | {ProblemDocument}]
    _, definitions = models_json_schema(sorted(wanted, key=lambda pair: pair[0].__name__), ref_template=_REF)  # type: ignore[arg-type]
    found: dict[str, Any] = definitions["$defs"]
    for model in got:  # what was not set is left out
        optional = {f.serialization_alias or n for n, f in model.model_fields.items() if not f.is_required()}
        schema = found[model.__name__]
        schema["required"] = [name for name in schema.get("required", ()) if name not in optional]
    return found


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    answers = {**dict.fromkeys(_ALWAYS), **(dict.fromkeys(_WITH_BODY) if endpoint.body else {}), **endpoint.answers}
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": f"Needs the right to `{endpoint.rule}`.",
        "parameters": [*_path(endpoint), *_query(endpoint), *_headers(endpoint)],
        "responses": {str(status): _answer(endpoint, status, model) for status, model in sorted(answers.items())},
    }
    if endpoint.body is not None:
        schema = {"$ref": _REF.format(model=endpoint.body.__name__)}
        operation["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    return operation


def _path(endpoint: Endpoint) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", PREFIX + endpoint.path)
    return [{"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]} for name in names]


def _query(endpoint: Endpoint) -> list[dict[str, Any]]:
    schema = endpoint.query.model_json_schema(ref_template=_REF)
    found = []
    for name, one in schema.get("properties", {}).items():
        said = _flat(one, schema.get("$defs", {}))
        found.append(
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": said.pop("description", ""),
                "schema": said,
            }
        )
    return found


def _flat(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema by itself: it is given or not, but never null."""
    given = {key: value for key, value in schema.items() if key not in {"anyOf", "title", "default", "$ref"}}
    for part in schema.get("anyOf", [{"$ref": schema["$ref"]}] if "$ref" in schema else []):
        if part.get("type") != "null":
            given |= definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    given.pop("title", None)
    return given


def _headers(endpoint: Endpoint) -> list[dict[str, Any]]:
    headers = dict(endpoint.headers)
    if endpoint.keyed:
        headers["Idempotency-Key"] = f"Up to {MAX_KEY} bytes. Sent again within 24 h, it leads to the first run."
    schemas = {"Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[!-~]+$"}}
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": schemas.get(name, {"type": "string", "pattern": r"^\d{1,9}(\.end)?$"}),
        }
        for name, text in headers.items()
    ]


def _answer(endpoint: Endpoint, status: int, model: type[BaseModel] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status >= 400:
        found["content"] = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=ProblemDocument.__name__)}}}
    elif model is not None:
        found["content"] = {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}
    elif endpoint.streams and status == 200:
        found["content"] = {"text/event-stream": {"schema": _EVENT}}
    return found
