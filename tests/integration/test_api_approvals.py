"""Approvals over the API."""

from __future__ import annotations

from api import ALL, api


async def test_what_waits_is_listed_and_decided_once(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        first, second = await a.asked(), await a.asked()
        page = await a.get("/approvals?limit=1")
        assert [(w["runId"], w["step"], w["message"], w["dueAt"]) for w in page["approvals"]] == [
            (first, "ask", "secret words?", None)
        ]
        rest = await a.get(f"/approvals?limit=1&cursor={page['cursor']}")
        assert ([w["runId"] for w in rest["approvals"]], rest["cursor"]) == ([second], None)
        a.access.give("eve", "update approvals")
        said = await a.post(f"/runs/{first}/steps/ask:approve", {"comment": "fine", "data": {"limit": 3}}, "eve")
        assert said.status_code == 200
        assert said.json() == {"runId": first, "step": "ask", "decision": "Approved", "by": "eve"}
        again = await a.post(f"/runs/{first}/steps/ask:approve", {"comment": "fine"}, "eve")
        assert again.status_code == 200, "the answer may have been lost"
        late = await a.post(f"/runs/{first}/steps/ask:reject")
        assert late.status_code == 409
        assert late.json()["detail"] == f"approval ask of run {first} was approved by eve before"
        assert [w["runId"] for w in (await a.get("/approvals"))["approvals"]] == [second]
        rows = a.gateway.rows("SELECT approved, decided_by, comment, data FROM approvals WHERE decided_at IS NOT NULL")
        assert rows == [(True, "eve", "fine", {"limit": 3})]


async def test_a_step_that_asks_nothing_and_a_run_that_is_over(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.asked()
        for step in ("other", "%00", "a%20b", "x" * 64):
            assert (await a.post(f"/runs/{run}/steps/{step}:approve")).status_code == 404, step
        assert (await a.post(f"/runs/{run}:cancel")).status_code == 202
        over = await a.post(f"/runs/{run}/steps/ask:reject")
        assert (over.status_code, "is over" in over.json()["detail"]) == (409, True)
        assert (await a.post(f"/runs/{run}/steps/ask:approve", {"comment": 7})).status_code == 400


async def test_messages_are_for_who_decides_or_may_read_payloads(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        await a.asked()
        a.access.give("viewer", *(act for act in ALL if act not in {"get payloads", "update approvals"}))
        for user, act in (("decider", "update approvals"), ("reader", "get payloads")):
            a.access.give(user, "list runs", act)
            assert (await a.get("/approvals", user))["approvals"][0]["message"] == "secret words?"
        seen = await a.get("/approvals", "viewer")
        assert "update workflows/approvals" in seen["note"]
        assert "secret words" not in str(seen)
