"""The ``httpCall`` action as a manifest states it."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict, StringConstraints

from stepwell.domain.model import (
    BasicAuth,
    BearerAuth,
    Expression,
    Flag,
    HeaderName,
    JsonTemplate,
    Model,
    Number,
    SecretKeyRef,
    StatusMatch,
    TextTemplate,
    at_most,
    refuse,
)

MAX_URL = 8192
_LITERAL_HOST = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?([/?#]|\Z)")


class UrlFrom(Model):
    """The whole URL is a secret, as with chat webhooks."""

    secret_ref: SecretKeyRef


class SecretHeader(Model):
    """A request header whose value is ``prefix`` and a secret."""

    name: HeaderName
    secret_ref: SecretKeyRef
    prefix: Annotated[str, Strict(), StringConstraints(max_length=64)] | None = None


class SecretParameter(Model):
    """A query parameter whose value is a secret."""

    name: Annotated[str, Strict(), StringConstraints(min_length=1, max_length=256)]
    secret_ref: SecretKeyRef


class HttpAuth(Model):
    """How a request authenticates; exactly one way."""

    bearer: BearerAuth | None = None
    basic: BasicAuth | None = None
    headers: Annotated[tuple[SecretHeader, ...], at_most(16, at_least=1)] | None = None
    query: Annotated[tuple[SecretParameter, ...], at_most(16, at_least=1)] | None = None

    exactly_one: ClassVar = ("bearer", "basic", "headers", "query")


class Expect(Model):
    """Which answers are a success."""

    status: Annotated[tuple[StatusMatch, ...], at_most(64, at_least=1)] = ("2xx",)
    if_: Expression | None = Field(default=None, alias="if")


class Tls(Model):
    """Trust for the server's certificate."""

    ca_secret_ref: SecretKeyRef


class HttpCall(Model):
    """One HTTP request."""

    url: Annotated[str, Strict(), StringConstraints(min_length=1, max_length=MAX_URL)] | None = None
    url_from: UrlFrom | None = None
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    headers: Annotated[dict[str, TextTemplate], at_most(64)] | None = None
    query: Annotated[dict[str, TextTemplate], at_most(64)] | None = None
    body: JsonTemplate = None
    text: Annotated[str, Strict(), StringConstraints(max_length=65536)] | None = None
    auth: HttpAuth | None = None
    expect: Expect = Expect()
    follow_redirects: Flag = False
    max_response_bytes: Annotated[Number, Field(ge=1, le=1 << 20)] = 1 << 20
    tls: Tls | None = None

    exactly_one: ClassVar = ("url", "url_from")

    def model_post_init(self, _context: Any, /) -> None:
        """One body, and no secret to a host that an expression could choose. Plain http is decided on at run time."""
        self._check_exactly_one()
        if self.body is not None and self.text is not None:
            refuse("body and text exclude each other; keep the one that is to be sent")
        if self.auth is not None and self.url is not None and not _LITERAL_HOST.match(self.url):
            message = "a request with auth needs a url that begins with https:// and a literal host, without {{ }}"
            refuse(message)
