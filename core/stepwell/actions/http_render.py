"""The request of an ``httpCall``: compiled at apply, rendered once, the same bytes at every attempt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Self

from stepwell.actions.http_url import render_url, with_query
from stepwell.domain.documents import MAX_BYTES, JsonValue, dumps
from stepwell.domain.http import Headers, HttpRequest
from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.domain.action import Compiler
    from stepwell.domain.expressions import Context
    from stepwell.domain.http_spec import HttpCall as Spec
    from stepwell.domain.template import Template, TextTemplate

MAX_HEADER_VALUE = 8192  # bytes, as most servers have it

HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DEFAULTS = (("Accept", "*/*"), ("Accept-Encoding", "gzip"), ("User-Agent", f"stepwell/{version('stepwell')}"))


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """``defaults`` are the headers that the manifest does not set itself. ``url`` is None where it is a secret."""

    method: str
    url: TextTemplate | None
    headers: tuple[tuple[str, TextTemplate], ...]
    defaults: Headers
    query: tuple[tuple[str, Template], ...]
    body: Template | None
    text: TextTemplate | None

    @classmethod
    def compile(cls, spec: Spec, compiler: Compiler) -> Self:
        """Compile every template of the request; problems go to the compiler."""
        headers = spec.headers or {}
        _check_names(headers, compiler.at(".headers"))
        query = spec.query or {}
        return cls(
            method=spec.method,
            url=None if spec.url is None else compiler.at(".url").text(spec.url),
            headers=tuple((name, compiler.at(f".headers.{name}").text(text)) for name, text in headers.items()),
            defaults=_defaults(spec, {name.lower() for name in headers}),
            query=tuple((name, compiler.at(f".query.{name}").template(text)) for name, text in query.items()),
            body=None if spec.body is None else compiler.at(".body").template(spec.body),
            text=None if spec.text is None else compiler.at(".text").text(spec.text),
        )

    def render(self, context: Context) -> HttpRequest:
        """The request, but for the headers of the attempt, and with nothing but its query where the URL is a secret.

        Raises EvaluationError or StepFailure.
        """
        url = "" if self.url is None else render_url(self.url, context)
        if self.query:
            url = with_query(url, self._parameters(context))
        headers = tuple((name, _header(name, template.render(context))) for name, template in self.headers)
        return HttpRequest(self.method, url, headers + self.defaults, self._body(context))

    def _parameters(self, context: Context) -> Iterator[tuple[str, str]]:
        for name, template in self.query:
            value = template.render(context)
            for item in value if isinstance(value, list) else [value]:
                if item is not None:
                    yield name, _as_text(item)

    def _body(self, context: Context) -> bytes | None:
        if self.text is not None:
            body = self.text.render(context).encode()
        elif self.body is not None:
            body = dumps(self.body.render(context))
        else:
            return None
        if len(body) > MAX_BYTES:
            message = f"the request body has {len(body):,} bytes; at most {MAX_BYTES:,} are allowed"
            raise StepFailure("RequestTooLarge", message, sent=False, final=True)
        return body


def _check_names(headers: dict[str, str], compiler: Compiler) -> None:
    seen: set[str] = set()
    for name in headers:
        if not _TOKEN.match(name):
            compiler.refuse(f"{name!r} is not a header name", f".{name}")
        elif name.lower() in HOP_BY_HOP:
            compiler.refuse(
                f"the header {name} belongs to the connection, which Stepwell makes; take it away", f".{name}"
            )
        elif name.lower() in seen:
            compiler.refuse(f"the header {name} is set twice; names do not differ by case", f".{name}")
        seen.add(name.lower())


def _defaults(spec: Spec, given: set[str]) -> Headers:
    content_type: Headers = ()
    if spec.text is not None:
        content_type = (("Content-Type", "text/plain; charset=utf-8"),)
    elif spec.body is not None:
        content_type = (("Content-Type", "application/json"),)
    return tuple(pair for pair in (*_DEFAULTS, *content_type) if pair[0].lower() not in given)


def has_control(text: str) -> bool:
    """Whether a header cannot hold the text: it could be split by it."""
    return _CONTROL.search(text) is not None


def _header(name: str, value: str) -> str:
    if has_control(value):
        message = f"the header {name} holds a control character, such as a line break"
        raise StepFailure("InvalidHeader", message, sent=False, final=True)
    if len(value) > MAX_HEADER_VALUE:
        message = f"the header {name} has more than {MAX_HEADER_VALUE:,} characters"
        raise StepFailure("InvalidHeader", message, sent=False, final=True)
    return value.strip(" \t")


def _as_text(value: JsonValue) -> str:
    return value if isinstance(value, str) else dumps(value).decode()
