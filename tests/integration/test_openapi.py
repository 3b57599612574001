"""The description of the API against the gateway that serves it: no 5xx, and no answer that it does not describe."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import schemathesis
from api import api
from gateways import NAMESPACE, trigger
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from stepwell.domain.approval_links import ApprovalLinks, Link
from stepwell.domain.states import RunStatus
from stepwell_gateway.api.endpoints import ENDPOINTS
from stepwell_gateway.api.openapi import document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_gateway.context import Context

DECIDING = ("approve_step", "reject_step")
LINKED = ("show_approval", "decide_approval")
OPEN = ("deliver", *LINKED)
KEY = "0123456789abcdef0123456789abcdef"
LINKS = ApprovalLinks(KEY.encode(), "")
HOOKED = trigger(input={"body": "{{ body }}"}, idempotencyKey="{{ sha256(toJson(body)) }}", **{"if": "body != {}"})
EXAMPLES = 8  # of each route, valid and invalid ones each
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip


def keyed(context: Context) -> Context:
    return replace(context, settings=replace(context.settings, approval_key=KEY))


async def test_schemathesis_finds_no_5xx_and_no_answer_that_is_not_described(database: str, redis_url: str) -> None:
    async with api(database, redis_url, keyed) as a:
        await a.gateway.apply(HOOKED, name="hooked")
        ended = [
            await a.ended(status=status) for status in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED)
        ]
        described = await a.gateway.client.get("/openapi.json")
        asked = {name: [await a.asked() for _ in range(3)] for name in (*DECIDING, *LINKED)}
        met = await asyncio.to_thread(explore, described.json(), str(a.gateway.client.base_url), ended, asked)
    for operation in (*(endpoint.name for endpoint in ENDPOINTS), *OPEN):
        assert any(status < 300 for name, status in met if name == operation), f"{operation}: {met}"
    assert {status for _, status in met} >= {200, 202, 400, 404, 409}, met


def explore(
    described: dict[str, Any], url: str, runs: Sequence[str], asked: dict[str, list[str]]
) -> Counter[tuple[str, int]]:
    """What each route answered, to runs that ended or, by its name, to those that asked."""
    met: Counter[tuple[str, int]] = Counter()
    schema = schemathesis.openapi.from_dict(described)
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer root"
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                name = operation.definition.raw["operationId"]
                fuzz(operation, mode, url, session, asked.get(name, runs), met)
    return met


def fuzz(operation: Any, mode: Any, url: str, session: Any, runs: Sequence[str], met: Counter[tuple[str, int]]) -> None:
    name = operation.definition.raw["operationId"]

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode), st.sampled_from(runs), st.integers(0, 3))
    def check(case: Any, run: str, known: int) -> None:
        if case.path_parameters and known:  # most names exist, or all answers were 404
            token = LINKS.url(Link(run, "ask", 1 << 62)).rpartition("/")[2]
            real = {"namespace": NAMESPACE, "name": "order", "run": run, "step": "ask", "token": token}
            real |= {"workflow": "hooked", "trigger": "hook"}
            case.path_parameters = {key: real[key] for key in case.path_parameters}
        if case.query and known > 1:  # nor is a cursor made up
            case.query = {key: value for key, value in case.query.items() if key not in {"cursor", "since"}}
        response = case.call(base_url=url, session=session)
        met[name, response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    check()


# -- the description itself ------------------------------------------------------------------------------------------------


def test_the_description_covers_every_route_and_names_its_right() -> None:
    described = document(ENDPOINTS)
    assert described["openapi"] == "3.1.0"
    operations = {
        operation["operationId"]: operation for path in described["paths"].values() for operation in path.values()
    }
    assert set(operations) == {endpoint.name for endpoint in ENDPOINTS} | set(OPEN)
    assert all(("security" in operation) == (name in OPEN) for name, operation in operations.items())
    for endpoint in ENDPOINTS:
        assert str(endpoint.rule) in operations[endpoint.name]["description"]
        assert {"401", "403", "503"} <= set(operations[endpoint.name]["responses"])
    assert described["security"] == [{"bearer": []}]


def test_every_reference_leads_somewhere() -> None:
    described = document(ENDPOINTS)
    text = json.dumps(described)
    names = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names <= set(described["components"]["schemas"])
    assert {"RunDetail", "RunPage", "StartBody", "ProblemDocument"} <= names


async def test_the_page_for_people_loads_nothing(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        shown = await a.gateway.client.get("/docs")
        assert shown.status_code == 200
        assert shown.headers["content-security-policy"].startswith("default-src 'none'")
        assert not any(word in shown.text for word in ("<script", "src=", "@import", "url(", "http://", "https://"))
        for endpoint in ENDPOINTS:
            assert endpoint.path in shown.text
        assert urlsplit("/openapi.json").path in shown.text
        assert (await a.gateway.client.post("/docs")).status_code == 405
