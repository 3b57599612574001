"""Starting, reading and listing runs over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from api import Api, api, attempt
from gateways import NAMESPACE, gateway
from hypothesis import given
from hypothesis import strategies as st

from stepwell.adapters.postgres import run_reader
from stepwell.domain.states import RunStatus, StepStatus
from stepwell_gateway.api import cursors
from stepwell_gateway.api.queries import moment
from stepwell_gateway.problems import Problem

START = "/workflows/order/runs"


# -- starting --------------------------------------------------------------------------------------------------------------


async def test_a_start_is_answered_once_the_run_is_durable(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        response = await a.post(START, {"input": {"n": 7}, "priority": "High"})
        assert response.status_code == 202
        run_id = response.json()["runId"]
        url = f"/api/v1/namespaces/{NAMESPACE}/runs/{run_id}"
        assert response.json() == {"runId": run_id, "status": "queued", "url": url}
        assert response.headers["location"] == url
        assert response.headers["cache-control"] == "no-store"
        seen = await a.get(f"/runs/{run_id}")
        assert (seen["status"], seen["input"], seen["priority"], seen["trigger"]) == ("queued", {"n": 7}, "High", "api")
        assert seen["retryOf"] is seen["rerunOf"] is seen["startedAt"] is seen["error"] is None


async def test_a_body_is_not_needed(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        assert (await a.call("POST", START)).status_code == 202
        assert a.gateway.inputs() == [{}]


async def test_a_key_leads_to_the_first_run(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        key = {"idempotency-key": "order 7"}
        first = await a.post(START, {"input": {"n": 1}}, headers=key)
        again = await a.post(START, {"input": {"n": 1}}, headers=key)
        other = await a.post(START, {"input": {"n": 2}}, headers=key)
        assert [r.status_code for r in (first, again, other)] == [202, 200, 200]
        assert len({r.json()["runId"] for r in (first, again, other)}) == 1
        assert [r.json()["inputDiffers"] for r in (again, other)] == [False, True]
        assert again.json()["status"] == "queued"
        for bad in ("", "x" * 257, "tab\there"):
            assert (await a.post(START, headers={"idempotency-key": bad})).status_code == 400, bad


async def test_a_key_is_up_to_256_bytes_of_utf_8(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        for key, status in (
            (b"x" * 256, 202),
            ("é".encode() * 128, 202),
            ("à la carte".encode(), 202),
            ("à la carte".encode(), 200),
            ("é".encode() * 128 + b"x", 400),
            (b"\xff", 400),
            ("a\u2028b".encode(), 400),
        ):
            answer = await a.post(START, headers={"idempotency-key": key})
            assert answer.status_code == status, key
        assert ("à la carte",) in a.gateway.rows("SELECT key FROM idempotency_keys")


WRONG_BODIES = [
    (400, b'{"input": {"n": "seven"}}', "n"),
    (400, b'{"inputs": {}}', "inputs: there is no such field"),
    (400, b'{"input": []}', "input"),
    (400, b'{"priority": "Urgent"}', "priority"),
    (400, b"[]", "the body"),
    (422, b"{", "not valid JSON"),
    (422, b'{"input": {"t": "\\u0000"}}', "NUL"),
    (422, b'{"input": {"t": "\\ud800"}}', "surrogate"),
    (422, b'{"input": {"n": 1' + b"0" * 30 + b"}}", "64 bits"),
    (422, b'{"input": ' + b'{"a":' * 80 + b"1" + b"}" * 81, "nested deeper"),
]


async def test_what_cannot_be_started(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        for status, content, words in WRONG_BODIES:
            response = await a.call("POST", START, content=content, headers={"content-type": "application/json"})
            assert response.status_code == status, (content, response.text)
            assert words in response.json()["detail"]
        assert a.gateway.count() == (0, 0, 0)


async def test_other_refusals_of_a_start(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        assert (await a.post("/workflows/none/runs")).status_code == 404
        plain = await a.call("POST", START, content=b"{}", headers={"content-type": "text/plain"})
        assert plain.status_code == 415
        packed = await a.call("POST", START, json={}, headers={"content-encoding": "gzip"})
        assert (packed.status_code, "Content-Encoding" in packed.json()["detail"]) == (415, True)
        large = await a.call(
            "POST", START, content=b" " * (1 << 20) + b"{}", headers={"content-type": "application/json"}
        )
        assert large.status_code == 413
        a.gateway.context.quotas._queued = 1
        assert a.gateway.count() == (0, 0, 0)
        first, *later = [await a.post(START, {"input": {"n": n}}) for n in range(3)]
        assert first.status_code == 202
        assert [(r.status_code, r.json()["quota"], "retry-after" in r.headers) for r in later] == [
            (429, "queued", True)
        ] * 2
        a.gateway.context.quotas._queued, a.gateway.context.quotas._starts = 0, 1
        over = [r for r in await asyncio.gather(*(a.post(START) for _ in range(8))) if r.status_code != 202]
        assert {(r.status_code, r.json()["quota"]) for r in over} == {(429, "starts")}
        await a.apply("order", suspended=True)
        a.gateway.context.quotas._starts = 0
        suspended = await a.post(START)
        assert (suspended.status_code, "retry-after" in suspended.headers) == (503, True)
        assert a.gateway.count()[0] == 9 - len(over)


# -- lists -----------------------------------------------------------------------------------------------------------------


async def pages(a: Api, path: str, field: str = "runs") -> list[Any]:
    """Everything of a list, page after page."""
    found: list[Any] = []
    cursor = ""
    while True:
        page = await a.get(f"{path}{'&' if '?' in path else '?'}limit=2{cursor}")
        assert len(page[field]) <= 2
        found += page[field]
        if page["cursor"] is None:
            return found
        cursor = f"&cursor={page['cursor']}"


async def test_lists_by_workflow_and_status_hold_every_run_once_newest_first(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        await a.apply("bill")
        made: list[tuple[str, str, str]] = []
        for name in ("order", "bill"):
            ends = (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.SUCCEEDED, RunStatus.TIMED_OUT)
            made += [(await a.ended(name, status), name, status) for status in ends]
            made.append((await a.queued(name), name, "queued"))
        made.append(((await a.running()).id, "order", "running"))
        await a.apply("order", namespace="other")
        await a.queued(namespace="other")
        newest = sorted(made, reverse=True)
        for workflow in (None, "order", "bill", "none"):
            for wanted in (None, *RunStatus):
                query = "&".join(f"{k}={v}" for k, v in (("workflow", workflow), ("status", wanted)) if v)
                expected = [i for i, w, s in newest if workflow in {None, w} and wanted in {None, s}]
                found = await pages(a, f"/runs?{query}")
                assert [run["id"] for run in found] == expected, query


async def test_since_is_a_duration_or_a_time(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.queued()
        for since in ("1h", "2026-01-31T08:00:00Z", "2026-01-31T08:00:00.5%2B02:00", "0001-01-01T00:00:00Z"):
            assert [r["id"] for r in (await a.get(f"/runs?since={since}"))["runs"]] == [run], since
        for since in ("9990-01-31T08:00:00Z", "1ms"):
            assert (await a.get(f"/runs?since={since}"))["runs"] == [], since


WRONG_FILTERS = [
    ("status=done", "status: "),
    ("limit=0", "limit: "),
    ("limit=201", "limit: "),
    ("limit=many", "limit: "),
    ("since=yesterday", "since: neither a duration"),
    ("since=2026-01-31", "since: neither"),
    ("since=2026-01-31T08:00:00", "since: neither"),
    ("since=2026-02-31T08:00:00Z", "since: neither"),
    ("cursor=abc", "cursor: it is none"),
    ("cursor=%00", "cursor: it is none"),
    ("workflow=A%20B", "workflow: "),
    ("statuses=failed", "statuses: there is no such field or parameter"),
    ("limit=1&limit=2", "limit: it is given twice"),
]


async def test_a_wrong_filter_is_named(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        for query, words in WRONG_FILTERS:
            response = await a.call("GET", f"/runs?{query}")
            assert response.status_code == 400, query
            assert words in response.json()["detail"]


async def test_a_cursor_is_of_its_list_only(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        for _ in range(3):
            await a.queued()
        cursor = (await a.get("/runs?limit=1"))["cursor"]
        assert len((await a.get(f"/runs?limit=2&cursor={cursor}"))["runs"]) == 2
        for other in ("/runs?status=queued&", "/runs?workflow=order&", "/workflows?", "/runs?since=1h&"):
            assert (await a.call("GET", f"{other}cursor={cursor}")).status_code == 400, other
        a.access.give("root", "list runs", namespace="other")
        assert (await a.call("GET", f"/runs?cursor={cursor}", namespace="other")).status_code == 400


@given(st.text(min_size=1, max_size=40), st.lists(st.none() | st.text(max_size=8), max_size=3), st.data())
def test_a_cursor_that_was_tampered_with_is_refused(place: str, about: list[str | None], data: Any) -> None:
    sealed = cursors.seal(place, *about)
    assert cursors.opened(sealed, *about) == place
    at = data.draw(st.integers(0, len(sealed) - 1))
    other = data.draw(st.sampled_from("ABCxyz019-_=.").filter(lambda c: c != sealed[at]))
    for changed in (sealed[:at] + other + sealed[at + 1 :], sealed[:-1], sealed + "A"):
        with pytest.raises(Problem):
            cursors.opened(changed, *about)
    with pytest.raises(Problem):
        cursors.opened(sealed, *about, "more")


@given(st.text(max_size=40))
def test_any_text_as_since_is_a_moment_or_refused(text: str) -> None:
    found = None
    with contextlib.suppress(Problem):
        found = moment(text)
    assert found is None or found.tzinfo is not None


async def test_workflows(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        spec = {
            "description": "Bills",
            "triggers": [{"name": "nightly", "cron": {"schedule": "0 3 * * *"}, "if": "true"}],
            "steps": [
                {"name": "a", "transform": {"value": 1}},
                {"name": "b", "needs": ["a"], "fail": {"message": "no"}},
            ],
            "onFailure": [{"name": "c", "httpCall": {"url": "https://chat.example.com"}}],
        }
        await a.apply("bill", spec=spec)
        await a.apply("cargo", suspended=True)
        await a.apply("elsewhere", namespace="other")
        found = await pages(a, "/workflows", "workflows")
        assert [(w["name"], w["suspended"]) for w in found] == [("bill", False), ("cargo", True), ("order", False)]
        bill = await a.get("/workflows/bill")
        assert bill["description"] == "Bills"
        assert bill["triggers"] == [{"name": "nightly", "type": "cron"}]
        assert bill["steps"] == [{"name": "a", "action": "transform"}, {"name": "b", "action": "fail"}]
        assert (bill["onFailure"], bill["finally"]) == ([{"name": "c", "action": "httpCall"}], [])
        assert (await a.call("GET", "/workflows/elsewhere")).status_code == 404


# -- steps -----------------------------------------------------------------------------------------------------------------


async def test_steps_come_in_the_order_in_which_they_were_recorded(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.running()
        await a.flush(run, [attempt("one", n, StepStatus.FAILED, at=n) for n in (1, 2)])
        await a.flush(run, [attempt("one", 3, at=3), attempt("two", at=4)])
        found = await pages(a, f"/runs/{run.id}/steps", "steps")
        assert [(s["step"], s["attempt"], s["status"]) for s in found] == [
            ("one", 1, "failed"), ("one", 2, "failed"), ("one", 3, "succeeded"), ("two", 1, "succeeded"),
        ]  # fmt: skip
        assert {s["itemIndex"] for s in found} == {None}
        assert {s["copied"] for s in found} == {False}
        assert found[2]["http"] == {"status": 200}


async def test_a_page_of_steps_ends_where_documents_become_large(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_reader, "MAX_PAGE_BYTES", 1_000)
    async with api(database, redis_url) as a:
        run = await a.running()
        large = b'"' + b"x" * 900 + b'"'
        await a.flush(run, [attempt(f"s{n}", at=n, output=large) for n in range(5)])
        page = await a.get(f"/runs/{run.id}/steps?limit=200")
        assert (len(page["steps"]), page["cursor"] is None) == (2, False)
        assert [s["step"] for s in await pages(a, f"/runs/{run.id}/steps", "steps")] == [f"s{n}" for n in range(5)]


# -- cancelling ------------------------------------------------------------------------------------------------------------


async def test_cancelling(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        queued, running = await a.queued(), (await a.running()).id
        first = await a.post(f"/runs/{queued}:cancel")
        assert (first.status_code, first.json()["status"]) == (202, "cancelled")
        assert (await a.call("POST", f"/runs/{queued}:cancel")).status_code == 202, "again, without a body"
        second = await a.post(f"/runs/{running}:cancel")
        assert (second.status_code, second.json()["status"]) == (202, "running")
        assert (await a.get(f"/runs/{running}"))["cancelRequested"]
        ended = await a.ended()
        refused = await a.post(f"/runs/{ended}:cancel")
        assert (refused.status_code, refused.json()["detail"]) == (409, "the run has ended: it succeeded")
        assert (await a.post(f"/runs/{queued}:explode")).status_code in {404, 405}


async def test_outside_of_local_mode_nobody_is_known_without_a_cluster(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as g:
        response = await g.client.get(f"/api/v1/namespaces/{NAMESPACE}/runs", headers={"authorization": "Bearer x"})
        assert response.status_code == 401
