"""What a page in a browser could try against a local gateway: other origins, names that point here, forms."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from api import Api, api

from stepwell_gateway.local import LocalAccess, refusal

if TYPE_CHECKING:
    import httpx

    from stepwell_gateway.context import Context

TOKEN = "the token of this run"
JSON = {"content-type": "application/json"}


def local(context: Context) -> Context:
    access = LocalAccess(TOKEN)
    return replace(context, access=access, local=access)


async def send(
    a: Api, method: str = "POST", path: str = "/workflows/order/runs", **headers: str | None
) -> httpx.Response:
    """A request as the command line sends it, but for these headers (None: without)."""
    given = {"authorization": f"Bearer {TOKEN}"} | JSON | {k.replace("_", "-"): v for k, v in headers.items()}
    kept = {name: value for name, value in given.items() if value is not None}
    return await a.call(method, path, None, content=b"{}" if method == "POST" else None, headers=kept)


async def test_the_command_line_is_served_and_a_browser_is_not(database: str, redis_url: str) -> None:
    async with api(database, redis_url, local) as a:
        port = a.gateway.port
        own = f"127.0.0.1:{port}"
        for good in (
            {},
            {"origin": f"http://{own}"},
            {"host": f"localhost:{port}", "origin": f"http://localhost:{port}"},
            {"host": f"[::1]:{port}"},
        ):
            assert (await send(a, **good)).status_code == 202, good
        started = a.gateway.count()
        refused: list[tuple[int, dict[str, Any]]] = [
            (403, {"origin": "http://evil.example"}),
            (403, {"origin": "null"}),
            (403, {"origin": f"https://{own}"}),
            (403, {"origin": f"http://127.0.0.1:{port + 1}"}),
            (403, {"origin": f"http://localhost:{port}"}),
            (403, {"host": f"evil.example:{port}"}),
            (403, {"host": f"evil.example:{port}", "origin": f"http://evil.example:{port}"}),
            (403, {"host": "127.0.0.1.evil.example"}),
            (403, {"host": "localhost.evil.example"}),
            (403, {"host": "10.0.0.1"}),
            (415, {"content_type": "text/plain"}),
            (415, {"content_type": "application/x-www-form-urlencoded"}),
            (415, {"content_type": None}),
            (415, {"content_type": "text/plain; application/json"}),
            (401, {"authorization": None}),
            (401, {"authorization": "Bearer another"}),
        ]
        for status, headers in refused:
            response = await send(a, **headers)
            assert response.status_code == status, headers
            assert response.headers["content-type"] == "application/problem+json"
        bare = {"authorization": f"Bearer {TOKEN}"}  # what a form could send without being asked about
        assert (await a.call("POST", "/workflows/order/runs", None, headers=bare)).status_code == 415
        assert a.gateway.count() == started, "nothing of it had an effect"


async def test_reads_and_hooks_are_guarded_by_host_and_origin_too(database: str, redis_url: str) -> None:
    async with api(database, redis_url, local) as a:
        assert (await send(a, "GET", "/runs", content_type=None)).status_code == 200
        for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
            assert (await send(a, "GET", "/runs", **headers)).status_code == 403
            for path in ("/hooks/growth/order/hook", "/openapi.json", "/docs"):
                assert (await a.gateway.client.get(path, headers=headers)).status_code == 403, path
        hook = await a.gateway.post(headers={"origin": "http://evil.example"}, path="order/hook")
        assert hook.status_code == 403
        assert (await a.gateway.post(path="order/hook")).status_code == 401, "hooks need no token of ours"


async def test_no_answer_allows_another_origin(database: str, redis_url: str) -> None:
    for change in (local, lambda context: context):
        async with api(database, redis_url, change) as a:
            for method in ("OPTIONS", "GET"):
                response = await a.call(
                    method, "/runs", headers={"origin": "http://evil.example", "access-control-request-method": "POST"}
                )
                assert not [name for name in response.headers if name.startswith("access-control")]
            assert (await a.call("OPTIONS", "/runs")).status_code in {405, 415}


@pytest.mark.parametrize(
    ("client", "good"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("127.9.9.9", True),
        ("10.0.0.7", False),
        ("::ffff:10.0.0.7", False),
        ("", False),
    ],
)
def test_only_this_machine_is_served(client: str, good: bool) -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1",
        "client": (client, 1),
        "headers": [(b"host", b"localhost")],
    }
    found = refusal(scope)
    assert (found is None) == good


@pytest.mark.parametrize(
    "hosts", [[], [b"localhost", b"evil.example"], [b""], [b"localhost@evil.example"], [b"2130706433"]]
)
def test_a_host_is_one_name_of_this_machine(hosts: list[bytes]) -> None:
    headers = [(b"host", host) for host in hosts]
    scope = {"type": "http", "method": "GET", "path": "/", "client": ("127.0.0.1", 1), "headers": headers}
    assert refusal(scope) is not None


async def test_in_a_cluster_a_foreign_origin_has_no_token_and_so_no_right(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        response = await a.call("GET", "/runs", None, headers={"origin": "http://evil.example"})
        assert response.status_code == 401
        assert "set-cookie" not in response.headers, "a browser has nothing of ours that it could send along"


def test_the_token_stands_in_no_repr() -> None:
    assert TOKEN not in repr(LocalAccess(TOKEN))
