"""The pages behind links: who has the link decides, once, and nobody else learns anything."""

from __future__ import annotations

from dataclasses import replace

from api import MICROS, Api, api

from stepwell.domain.approval_links import ApprovalLinks, Link
from stepwell_gateway.context import Context

KEY = "0123456789abcdef0123456789abcdef"
LINKS = ApprovalLinks(KEY.encode(), "")


def keyed(context: Context) -> Context:
    return replace(context, settings=replace(context.settings, approval_key=KEY))


def link(run: str, step: str = "ask", expires: int = 9_000_000_000 * MICROS) -> str:
    return LINKS.url(Link(run, step, expires))


async def decisions(a: Api) -> list[tuple[object, ...]]:
    return a.gateway.rows("SELECT approved, decided_by, comment FROM approvals WHERE decided_at IS NOT NULL")


async def test_looking_changes_nothing_and_the_form_decides_once(database: str, redis_url: str) -> None:
    async with api(database, redis_url, keyed) as a:
        run = await a.asked(message="Ship <b>7</b>?")
        page = link(run)
        client = a.gateway.client
        shown = await client.get(page)
        assert shown.status_code == 200
        assert "Ship &lt;b&gt;7&lt;/b&gt;?" in shown.text
        assert shown.headers["cache-control"] == "no-store"
        assert shown.headers["referrer-policy"] == "no-referrer"
        assert "form-action 'self'" in shown.headers["content-security-policy"]
        assert not any(word in shown.text for word in ("<script", "src=", "http://", "https://"))
        assert await decisions(a) == []
        said = await client.post(page, data={"decision": "approve", "comment": "go"})
        assert (said.status_code, "approved" in said.text) == (200, True)
        late = await client.post(page, data={"decision": "reject"})
        assert (late.status_code, "decided before" in late.text) == (409, True)
        assert await decisions(a) == [(True, "link", "go")]
        after = await client.get(page)
        assert ("It was approved." in after.text, "<form" in after.text) == (True, False)


async def test_a_link_that_is_not_good_tells_nothing(database: str, redis_url: str) -> None:
    async with api(database, redis_url, keyed) as a:
        run = await a.asked()
        bad = [
            link(run, expires=1),
            link(run, "other"),
            link("01a204fa-6da3-7c86-ac89-a0ef3fe87dff"),
            ApprovalLinks(b"another key of another house....", "").url(Link(run, "ask", 1 << 62)),
            link(run)[:-1],
            "/approvals/x",
        ]
        answers = [await a.gateway.client.request(method, url) for url in bad for method in ("GET", "POST")]
        assert {r.status_code for r in answers} == {404}
        assert len({r.text for r in answers}) == 1
        assert await decisions(a) == []


async def test_a_form_that_decides_nothing(database: str, redis_url: str) -> None:
    async with api(database, redis_url, keyed) as a:
        page = link(await a.asked())
        for content in (b"", b"decision=maybe", b"decision=approve&" + b"a=b&" * 20, b"\xff"):
            assert (await a.gateway.client.post(page, content=content)).status_code == 400, content
        assert (await a.gateway.client.post(page, content=b"x" * (2 << 20))).status_code == 413
        assert (await a.gateway.client.delete(page)).status_code == 405
        assert await decisions(a) == []


async def test_without_a_key_no_link_is_good(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        assert (await a.gateway.client.get(link(await a.asked()))).status_code == 404
