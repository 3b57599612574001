"""What deliveries may hold: types, forms, text, CloudEvents, and everything that no store or language would keep."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from gateways import gateway, trigger

from stepwell_gateway.bodies import Bodies

if TYPE_CHECKING:
    from gateways import Gateway

    from stepwell_gateway.context import Context

FORM = "application/x-www-form-urlencoded"
ALL = {"body": "{{ body }}", "event": "{{ event }}"}
EVENT = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created"}


async def _accepted(running: Gateway, content: bytes, **headers: str | None) -> Any:
    """The input of the run that a delivery led to."""
    answer = await running.post(content, headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert answer.status_code == 202, f"{content[:80]!r} {headers}: {answer.text}"
    return running.inputs()[-1]


async def test_types_and_what_becomes_of_them(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(input={"body": "{{ body }}"}))
        for declared, content, value in (
            ("application/json", b'{"a": 1, "a": 2}', {"a": 2}),
            ("Application/JSON; charset=UTF-8", b"[1.5]", [1.5]),
            ("application/vnd.github.v3+json", b'"x"', "x"),
            (None, b'{"a": null}', {"a": None}),
            (None, b"", None),
            (FORM, b"a=1&b=%C3%A9+x&a=3&c", {"a": "3", "b": "é x", "c": ""}),
            (f"{FORM}; charset=iso-8859-1", b"a=%E9", {"a": "é"}),
            (FORM, b"", {}),
            ("text/plain", "grüß".encode(), "grüß"),
            ("text/plain; charset=ISO-8859-1", "grüß".encode("latin-1"), "grüß"),
            ("text/csv", b"a,b\n1,2\n", "a,b\n1,2\n"),
        ):
            assert await _accepted(running, content, content_type=declared) == {"body": value}, (declared, content)


async def test_types_that_are_not_read(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        for declared in (
            "image/png", "multipart/form-data; boundary=x", "application/octet-stream", "json", "application/xml",
            "application/json; charset=utf-16", "text/plain; charset=utf-7", "text/plain; charset=rot13",
            "application/cloudevents-batch+json", ";", "a" * 9000,
        ):  # fmt: skip
            answer = await running.post(headers={"content-type": declared})
            assert answer.status_code == 415, declared
            assert "application/json" in answer.headers["accept-post"]
        for encodings in (["gzip"], ["gzip", "gzip"], ["identity", "br"]):
            packed = [("content-type", "text/plain; charset=iso-8859-1"), *(("content-encoding", e) for e in encodings)]
            answer = await running.client.post("/hooks/growth/welcome/hook", content=b"\x1f\x8b", headers=packed)
            assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity"), encodings


async def test_the_body_is_the_input_where_none_is_stated(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        assert await _accepted(running, b'{"a": 1}') == {"a": 1}
        for content in (b"[]", b"7", b"null", b'"text"'):
            assert (await running.post(content)).status_code == 400


TORTURE: dict[str, tuple[str, bytes, int]] = {
    "no JSON": ("application/json", b"{", 422),
    "nothing": ("application/json", b"", 422),
    "NUL": ("application/json", b'{"a": "\\u0000"}', 422),
    "a NUL byte": ("application/json", b'{"a": "\x00"}', 422),
    "NUL in a key": ("application/json", b'{"\\u0000": 1}', 422),
    "a lone surrogate": ("application/json", b'{"a": "\\ud800"}', 422),
    "an encoded surrogate": ("application/json", b'{"a": "\xed\xa0\x80"}', 422),
    "bad UTF-8": ("application/json", b'{"a": "\xff"}', 422),
    "UTF-16": ("application/json", '{"a": 1}'.encode("utf-16"), 422),
    "a byte order mark": ("application/json", b"\xef\xbb\xbf{}", 422),
    "NaN": ("application/json", b'{"a": NaN}', 422),
    "Infinity": ("application/json", b'{"a": -Infinity}', 422),
    "1e400": ("application/json", b'{"a": 1e400}', 422),
    "1e131071": ("application/json", b'{"a": 1e131071}', 422),
    "2**63": ("application/json", b'{"a": 9223372036854775808}', 422),
    "2**63 - 1": ("application/json", b'{"a": 9223372036854775807}', 202),
    "a googol": ("application/json", b'{"a": 1' + b"0" * 100 + b"}", 422),
    "a million digits": ("application/json", b'{"a": 1' + b"0" * 1_000_000 + b"}", 422),
    "64 deep": ("application/json", b'{"a":' * 64 + b"1" + b"}" * 64, 202),
    "65 deep": ("application/json", b'{"a":' * 65 + b"1" + b"}" * 65, 422),
    "100,000 deep": ("application/json", b"[" * 100_000 + b"]" * 100_000, 422),
    "500,000 open": ("application/json", b"[" * 500_000, 422),
    "10,000 keys": ("application/json", orjson.dumps({str(n): n for n in range(10_000)}), 202),
    "10,001 keys": ("application/json", orjson.dumps({str(n): n for n in range(10_001)}), 422),
    "two documents": ("application/json", b"{} {}", 422),
    "single quotes": ("application/json", b"{'a': 1}", 422),
    "a form with NUL": (FORM, b"a=%00", 422),
    "a form that is no UTF-8": (FORM, b"a=%ff", 422),
    "a form in raw bytes": (FORM, b"a=\xc3\xa9", 422),
    "a form of many": (FORM, b"&".join(b"%d=" % n for n in range(10_001)), 422),
    "text with NUL": ("text/plain", b"a\x00b", 422),
    "text that is no UTF-8": ("text/plain", b"\xff", 422),
    "1 MiB": ("application/json", b'{"a": "' + b"x" * ((1 << 20) - 9) + b'"}', 202),
    "1 MiB and a byte": ("application/json", b'{"a": "' + b"x" * ((1 << 20) - 8) + b'"}', 413),
    "short numbers that grow": ("application/json", b'{"a": [' + b",".join([b"1e15"] * 150_000) + b"]}", 400),
}


async def test_torture(database: str, redis_url: str) -> None:
    """Nothing is a 500, nothing is changed silently, and the tail still works."""
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        for what, (declared, content, status) in TORTURE.items():
            answer = await running.post(content, headers={"content-type": declared})
            assert answer.status_code == status, f"{what}: {answer.text[:300]}"
        stored = running.inputs()
        assert stored[0] == {"a": 9223372036854775807}
        assert len(stored) == sum(status == 202 for _, _, status in TORTURE.values())


async def test_a_process_holds_only_so_much_of_all_bodies(database: str, redis_url: str) -> None:
    def narrow(context: Context) -> Context:
        return replace(context, bodies=Bodies(most=100))

    async with gateway(database, redis_url, change=narrow) as running:
        await running.apply(trigger())
        answer = await running.post(b'"' + b"x" * 99 + b'"')
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert (await running.post()).status_code == 202
        assert running.context.bodies.held == 0


async def test_queries_and_methods(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        template = {"query": "{{ query }}", "method": "{{ method }}", "trigger": "{{ trigger }}"}
        await running.apply(trigger(input=template))
        answer = await running.post(path="welcome/hook?a=1&a=2&b&c=%C3%A9+")
        assert answer.status_code == 202
        expected = {"query": {"a": "2", "b": "", "c": "é "}, "method": "POST", "trigger": {"name": "hook"}}
        assert running.inputs() == [expected]
        for query in ("a=%00", "a=%ff", "a=%ed%a0%80"):
            assert (await running.post(path=f"welcome/hook?{query}")).status_code == 422


async def test_repeated_headers_and_odd_bytes(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(input={"x": "{{ headers['x-odd'] }}"}))
        headers = [("X-Odd", "a"), ("x-odd", b"b\xff")]
        answer = await running.client.post("/hooks/growth/welcome/hook", json={}, headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 202
        assert running.inputs() == [{"x": "a, b\xff"}]


# -- CloudEvents -------------------------------------------------------------------------------------------------------------


async def test_cloud_events_in_headers(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(input=ALL))
        headers = {f"ce_{name}": value for name, value in EVENT.items()} | {"ce_subject": "%E2%82%AC%20one"}
        found = await _accepted(running, b'{"n": 1}', **headers)
        expected = EVENT | {"subject": "€ one", "datacontenttype": "application/json"}
        assert found == {"body": {"n": 1}, "event": expected}
        found = await _accepted(running, b"plain", **headers, content_type="text/plain")
        assert (found["body"], found["event"]["datacontenttype"]) == ("plain", "text/plain")
        assert (await _accepted(running, b"{}", ce_id="1"))["event"] == {}, "no event without a version"


async def test_cloud_events_in_bodies(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(input=ALL))

        async def sent(**more: Any) -> Any:
            content = orjson.dumps(EVENT | more)
            return await _accepted(running, content, content_type="application/cloudevents+json; charset=utf-8")

        assert await sent(data={"n": 1}, priority=5) == {"body": {"n": 1}, "event": EVENT | {"priority": 5}}
        assert (await sent())["body"] is None
        encoded = base64.b64encode(b'{"n": 2}').decode()
        assert (await sent(data_base64=encoded))["body"] == {"n": 2}
        assert (await sent(data_base64=encoded, datacontenttype="text/plain"))["body"] == '{"n": 2}'
        assert (await sent(data_base64=encoded, datacontenttype="image/png"))["body"] == encoded


BROKEN: list[dict[str, Any]] = [
    {"specversion": "0.3"}, {"specversion": 1}, {"id": ""}, {"source": None}, {"type": 7},
    {"data_base64": "*"}, {"data_base64": 1}, {"data_base64": "/w=="},
]  # fmt: skip


async def test_what_is_no_cloud_event(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        structured = {"content-type": "application/cloudevents+json"}
        for change in BROKEN:
            assert (await running.post(orjson.dumps(EVENT | change), headers=structured)).status_code == 422, change
        assert (await running.post(b"[]", headers=structured)).status_code == 422
        for change in ({"specversion": "0.3"}, {"id": ""}, {"source": "%ff"}, {"type": "%00"}):
            headers = {f"ce-{name}": value for name, value in (EVENT | change).items()}
            assert (await running.post(b"{}", headers=headers)).status_code == 422, change
        assert running.count() == (0, 0, 0)


async def test_events_decide_and_name_the_delivery(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        fields = {"if": "event.type == 'order.created'", "idempotencyKey": "{{ event.source }} {{ event.id }}"}
        await running.apply(trigger(input={}, **fields))
        headers = {f"ce-{name}": value for name, value in EVENT.items()}
        statuses = [(await running.post(b"{}", headers=more)).status_code for more in (headers, headers, {})]
        assert statuses == [202, 200, 200]
        assert running.count()[0] == 1
