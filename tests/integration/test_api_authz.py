"""Who may call what: every route of the table, for whoever may and whoever may not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from api import ALL, Api, api
from gateways import NAMESPACE

from stepwell.domain.errors import UnavailableError
from stepwell.domain.states import RunStatus
from stepwell_gateway.api.endpoints import ENDPOINTS
from stepwell_gateway.api.table import Endpoint

if TYPE_CHECKING:
    import httpx

ABSENT = "01a204fa-6da3-7c86-ac89-a0ef3fe87dff"

TABLE = {
    ("GET", "/workflows"): "list runs",
    ("GET", "/workflows/{name}"): "get runs",
    ("POST", "/workflows/{name}/runs"): "create runs",
    ("GET", "/runs"): "list runs",
    ("GET", "/runs/{run}"): "get runs",
    ("GET", "/runs/{run}/steps"): "get runs",
    ("GET", "/runs/{run}/events"): "get runs",
    ("POST", "/runs/{run}:cancel"): "update runs",
    ("POST", "/runs/{run}:retry"): "update runs",
    ("POST", "/runs/{run}:rerun"): "create runs",
    ("GET", "/approvals"): "list runs",
    ("POST", "/runs/{run}/steps/{step}:approve"): "update approvals",
    ("POST", "/runs/{run}/steps/{step}:reject"): "update approvals",
}
"""The contract's table, written once more by hand."""

BY_RUN = [pair for pair in TABLE if "{run}" in pair[1]]


async def call(a: Api, route: tuple[str, str], user: str | None, run: str = ABSENT, **more: Any) -> httpx.Response:
    method, path = route
    if method == "POST" and "json" not in more:
        more["json"] = {}
    if user is None and path.endswith("events"):
        more["headers"] = {"last-event-id": "9.end"}
    return await a.call(method, path.format(name="order", run=run, step="ask"), user, **more)


async def fitting(a: Api, path: str, ended: str) -> str:
    """A run that the route can do something to."""
    if path.endswith("cancel"):
        return await a.queued()
    return await a.asked() if "{step}" in path else ended


def test_the_table_is_the_contracts() -> None:
    served = {(e.method, e.path): f"{e.rule.verb} {e.rule.subresource}" for e in ENDPOINTS}
    assert served == TABLE


def test_a_route_without_a_rule_cannot_be_registered() -> None:
    with pytest.raises(TypeError, match="no rule that says who may call it"):
        replace(ENDPOINTS[0], rule=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Endpoint("GET", "/x", handle=ENDPOINTS[0].handle, summary="", answers={})  # type: ignore[call-arg]


async def test_without_credentials_every_route_says_the_same(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.ended()
        for credentials in (
            {},
            {"authorization": "Bearer nobody"},
            {"authorization": "Basic cm9vdDo="},
            {"authorization": "Bearer"},
        ):
            for route in TABLE:
                for run_id in (run, ABSENT):
                    response = await call(a, route, None, run_id, headers=credentials)
                    assert response.status_code == 401, (route, credentials)
                    assert response.headers["www-authenticate"].startswith("Bearer")
                    assert response.headers["content-type"] == "application/problem+json"
        assert a.access.asked == []


async def test_each_route_takes_its_right_and_no_other(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        ended = await a.ended(status=RunStatus.FAILED)
        await a.apply("order", namespace="other")
        foreign = await a.ended(namespace="other", status=RunStatus.FAILED)
        a.access.give("elsewhere", *ALL, namespace="other")
        a.access.give("of another", *ALL, workflow="another")
        for number, (route, needed) in enumerate(TABLE.items()):
            may, may_not, named = f"may {number}", f"may not {number}", f"of this workflow {number}"
            a.access.give(may, needed)
            a.access.give(named, needed, workflow="order")
            a.access.give(may_not, *(act for act in ALL if act != needed))
            for user in (may_not, "of another", "elsewhere"):
                assert (await call(a, route, user, ended)).status_code == 403, (route, user)
            of_all = route in {("GET", "/workflows"), ("GET", "/runs"), ("GET", "/approvals")}
            for user, good in ((named, {403} if of_all else {200, 202}), (may, {200, 202})):
                run = await fitting(a, route[1], ended)
                assert (await call(a, route, user, run)).status_code in good, (route, user)
            if route in BY_RUN:
                answers = [await call(a, route, may, run_id) for run_id in (foreign, ABSENT, "x", "%00")]
                assert {r.status_code for r in answers} == {404}, route
                assert len({r.text for r in answers}) == 1, "a foreign id and an absent one are the same"
        assert a.gateway.rows("SELECT status FROM runs WHERE id = %s", foreign) == [("failed",)]


async def test_who_may_not_cannot_tell_a_run_from_none(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.ended()
        a.access.give("of another", *ALL, workflow="another")
        for route in BY_RUN:
            answers = [await call(a, route, "of another", run_id) for run_id in (run, ABSENT)]
            assert [r.status_code for r in answers] == [403, 403], route
            assert answers[0].text == answers[1].text


async def test_a_list_asks_for_the_workflow_that_it_is_of(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        a.access.give("one", "list runs", workflow="order")
        assert (await a.call("GET", "/runs?workflow=order", "one")).status_code == 200
        assert (await a.call("GET", "/runs?workflow=another", "one")).status_code == 403
        assert (await a.call("GET", "/runs", "one")).status_code == 403
        assert a.access.asked[-1] == ("one", "list runs", NAMESPACE, "")


# -- payloads --------------------------------------------------------------------------------------------------------------


async def test_payloads_take_a_right_of_their_own(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.ended(status=RunStatus.FAILED, value={"n": 7})
        a.access.give("viewer", *(act for act in ALL if act != "get payloads"))
        seen = await a.get(f"/runs/{run}", "viewer")
        assert "get workflows/payloads" in seen["note"]
        assert not {"input", "output"} & set(seen)
        assert seen["error"] == {"reason": "Broken", "step": "two"}
        steps = await a.get(f"/runs/{run}/steps", "viewer")
        assert "get workflows/payloads" in steps["note"]
        assert [set(s) & {"input", "output", "http"} for s in steps["steps"]] == [set(), set()]
        assert steps["steps"][1]["error"] == {"reason": "Broken"}
        listed = await a.get("/runs", "viewer")
        events = await a.call("GET", f"/runs/{run}/events", "viewer")
        for text in map(str, (seen, steps, listed, events.text)):
            assert "secret" not in text
        whole = await a.get(f"/runs/{run}")
        assert (whole["input"], whole["error"]["message"]) == ({"n": 7}, "secret words")
        assert "note" not in whole
        steps = await a.get(f"/runs/{run}/steps")
        assert steps["steps"][0]["output"] == {"secret": "out"}
        assert steps["steps"][0]["input"] == {"n": 7}
        assert steps["steps"][1]["error"]["message"] == "secret words"


async def test_to_choose_a_repeats_input_takes_the_right_to_payloads(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.ended()
        a.access.give("starter", "create runs")
        assert (await a.post(f"/runs/{run}:rerun", {"input": {"n": 2}}, "starter")).status_code == 403
        assert (await a.post(f"/runs/{run}:rerun", {}, "starter")).status_code == 202
        a.access.give("starter", "get payloads")
        assert (await a.post(f"/runs/{run}:rerun", {"input": {"n": 2}}, "starter")).status_code == 202


async def test_where_nobody_can_be_asked_the_answer_is_503(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:

        async def away(*_: object) -> bool:
            raise UnavailableError("the API server is away")

        a.access.allowed = away  # type: ignore[method-assign]
        response = await a.call("GET", "/runs")
        assert (response.status_code, "retry-after" in response.headers) == (503, True)
        assert "API server" not in response.text


async def test_names_that_kubernetes_would_not_take_reach_nobody(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        for namespace in ("Growth", "a_b", "..", "%00", "a" * 64, "-a"):
            assert (await a.call("GET", "/runs", namespace=namespace)).status_code == 404, namespace
        assert (await a.call("GET", "/workflows/Order")).status_code == 404
        assert a.access.asked == []
