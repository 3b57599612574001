"""The request of an httpCall as it is rendered: URLs and headers that are encoded or refused, and what apply refuses."""

from __future__ import annotations

from typing import Any

import pytest
from http_calls import compile_call, render

from stepwell.domain.retry import StepFailure


@pytest.mark.parametrize(
    ("url", "value", "sent"),
    [
        ("{{ url }}", {"url": " http://a.example/x y?q=1#f "}, "http://a.example/x%20y?q=1"),
        ("{{ url }}/b/{{ id }}", {"url": "http://a.example:81/x", "id": "1/2"}, "http://a.example:81/x/b/1%2F2"),
        ("http://{{ host }}/x", {"host": "a.example:81"}, "http://a.example:81/x"),
        ("http://{{ host }}", {"host": "[2001:db8::1]:81"}, "http://[2001:db8::1]:81"),
        ("http://{{ t }}.a.example/?q={{ t }}", {"t": "x"}, "http://x.a.example/?q=x"),
        ("http://a.example?q={{ q }}", {"q": "a&b=c#d"}, "http://a.example?q=a%26b%3Dc%23d"),
        ("http://a.example/{{ n }}/{{ o }}", {"n": 7, "o": {"k": 1}}, "http://a.example/7/%7B%22k%22%3A1%7D"),
        (
            "http://a.example/{{ v }}?{{ v }}={{ v }}",
            {"v": "\r\nX: +"},
            "http://a.example/%0D%0AX%3A%20%2B?%0D%0AX%3A%20%2B=%0D%0AX%3A%20%2B",
        ),
        ("http://bücher.example/ü?ä", {}, "http://xn--bcher-kva.example/%C3%BC?%C3%A4"),
        ("HTTP://A.example/%41", {}, "HTTP://A.example/%41"),
        ("{{ s }}://a.example/", {"s": "https"}, "https://a.example/"),
    ],
)
def test_urls(url: str, value: Any, sent: str) -> None:
    assert render({"url": url}, value).url == sent


@pytest.mark.parametrize(
    ("url", "value"),
    [
        ("http://{{ x }}.a.example/", {"x": "evil.example/"}),
        ("http://{{ x }}.a.example/", {"x": "evil.example?"}),
        ("http://{{ x }}.a.example/", {"x": "evil.example#"}),
        ("http://{{ x }}.a.example/", {"x": "u@evil.example"}),
        ("http://{{ x }}.a.example/", {"x": "evil.example:80"}),
        ("http://a.example{{ x }}", {"x": "/path"}),
        ("http://a.example/x/{{ x }}/y", {"x": ".."}),
        ("http://a.example/x/{{ x }}", {"x": "."}),
        ("http://a.example/x/.{{ x }}/y", {"x": "."}),
        ("{{ x }}", {"x": "http://u:p@a.example/"}),
        ("{{ x }}", {"x": "http://@a.example/"}),
        ("{{ x }}", {"x": "ftp://a.example/"}),
        ("{{ x }}", {"x": "/relative"}),
        ("{{ x }}", {"x": "http://a.example/\r\nX: y"}),
        ("{{ x }}", {"x": "http://a.example\\@b.example/"}),
        ("{{ x }}", {"x": "http://a%2eexample/"}),
        ("{{ x }}", {"x": "http://[::1%25eth0]/"}),
        ("{{ x }}", {"x": "http://a.example:99999/"}),
        ("{{ x }}", {"x": "http://"}),
        ("{{ x }}", {"x": "http://a.example/" + "x" * 9000}),
        ("{{ x }}", {"x": ["http://a.example/"]}),
    ],
)
def test_urls_that_are_refused(url: str, value: Any) -> None:
    with pytest.raises(StepFailure) as caught:
        render({"url": url}, value)
    assert (caught.value.reason, caught.value.sent, caught.value.final) == ("InvalidUrl", False, True)
    assert ":p@" not in caught.value.message


def test_a_query_cannot_be_split_either() -> None:
    query = {"a b&\r\n": "{{ v }}", "v": "{{ [v, 1.5, true, null, {'k': v}] }}", "plain": "{{ v }}{{ v }}"}
    value = {"v": "\r\n&=é+"}
    request = render({"url": "http://a.example/?x", "query": query}, value)
    v = "%0D%0A%26%3D%C3%A9%2B"
    nested = "%7B%22k%22%3A%22%5Cr%5Cn%26%3D%C3%A9%2B%22%7D"
    assert request.url == f"http://a.example/?x&a%20b%26%0D%0A={v}&v={v}&v=1.5&v=true&v={nested}&plain={v}{v}"


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\x7f", "a\x01", "x" * 9000])
def test_a_header_cannot_be_split(value: str) -> None:
    with pytest.raises(StepFailure) as caught:
        render({"url": "http://a.example", "headers": {"X-A": "{{ v }}"}}, {"v": value})
    assert (caught.value.reason, caught.value.final) == ("InvalidHeader", True)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"headers": {"Host": "x"}}, "httpCall.headers.Host: the header Host belongs to the connection"),
        ({"headers": {"content-length": "1"}}, "belongs to the connection"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "belongs to the connection"),
        ({"headers": {"X A": "1"}}, "'X A' is not a header name"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "is set twice"),
        ({"headers": {"X-A": "{{ 1 + }}"}}, "httpCall.headers.X-A: "),
        ({"query": {"q": "{{ nope( }}"}}, "httpCall.query.q: "),
        ({"body": {"a": ["{{ 1 + }}"]}}, "httpCall.body.a[0]: "),
        ({"expect": {"if": "1 +"}}, "httpCall.expect.if: "),
        ({"expect": {"if": "steps.other.output"}}, "httpCall.expect.if: steps.other.output: there is no step other"),
        ({"body": "{{ steps.notify.output }}"}, "httpCall.body: steps.notify.output: there is no step notify"),
    ],
)
def test_refused_at_apply(spec: dict[str, Any], said: str) -> None:
    _, problems = compile_call({"url": "https://a.example/", **spec})
    assert len(problems) == 1
    assert said in problems[0]


def test_a_body_over_the_limit() -> None:
    with pytest.raises(StepFailure) as caught:
        render({"url": "http://a.example", "body": {"a": "{{ x }}", "b": "y" * 600_000}}, {"x": "x" * 600_000})
    assert caught.value.reason == "RequestTooLarge"
