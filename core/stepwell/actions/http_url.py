"""URLs: rendered from a template, percent-encoded, and checked.

What is interpolated is data. Behind the host every value is percent-encoded whole, so that a ``/``, ``?`` or ``&`` in it
stays what it is; in the host only a port or an IPv6 address keeps its marks. Only a value with which the URL begins is
taken as it stands: it is the URL, or its scheme and host.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

from yarl import URL

from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell.domain.expressions import Context
    from stepwell.domain.template import TextTemplate

MAX_URL = 8192
_HOLE = "\0"  # stands for a value; no text of a manifest holds it
_KEPT = "!#$%&'()*+,/:;=?@[]~"  # what a URL may hold besides letters, digits and -._
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?\Z")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?:/|\Z)", re.IGNORECASE)


class UnusableUrlError(ValueError):
    """A text is no URL that can be requested; ``why`` repeats nothing of it."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(why)
        self.url = url
        self.why = why

    def failure(self) -> StepFailure:
        """As the failure of a step, with the URL."""
        shown = self.url if len(self.url) <= 200 else f"{self.url[:200]}…"
        message = f"{shown!r} is not a URL that httpCall can use: {self.why}"
        return StepFailure("InvalidUrl", message, sent=False, final=True)


def render_url(template: TextTemplate, context: Context) -> str:
    """The URL, ready to be sent. Raises EvaluationError or StepFailure."""
    values: list[str] = []

    def gather(value: str) -> str:
        values.append(value)
        return _HOLE

    first, *rest = template.render(context, gather).split(_HOLE)
    text = _fill(first.lstrip(), values, rest) if values else first
    try:
        return clean_url(text.strip())
    except UnusableUrlError as exc:
        raise exc.failure() from None


def clean_url(text: str) -> str:
    """Encode what may not stand in a URL, drop the fragment, and check the rest. Raises UnusableUrlError."""
    if _CONTROL.search(text):
        _refuse(text, "it holds a control character, such as a line break")
    bare = text.partition("#")[0]
    url = quote(bare, safe=_KEPT) if bare.isascii() else _encode(bare)
    if len(url) > MAX_URL:
        _refuse(text, f"it has more than {MAX_URL:,} characters")
    _check(url)
    return url


def with_query(url: str, pairs: Iterable[tuple[str, str]]) -> str:
    """The URL with these names and values added to its query."""
    added = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
    if not added:
        return url
    if "?" not in url:
        return f"{url}?{added}"
    return url + added if url.endswith(("?", "&")) else f"{url}&{added}"


def with_more_query(url: str, more: str) -> str:
    """The URL with ``more``, a query that begins with ``?``, or nothing."""
    return url + more.replace("?", "&", 1) if "?" in url and more else url + more


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what two URLs share if a credential of one may go to the other."""
    parsed = URL(url, encoded=True)
    return parsed.scheme, (parsed.raw_host or "").lower(), parsed.port


def _fill(first: str, values: list[str], rest: list[str]) -> str:
    url = first
    for value, literal in zip(values, rest, strict=True):
        _, separator, after = url.partition("://")
        if not url:
            url = value
        elif separator and not any(mark in after for mark in "/?#"):
            url += quote(value, safe=":[]")
        else:
            url += quote(value, safe="")
        url += literal
    return url


def _encode(url: str) -> str:
    """Encode a URL that is not ASCII: its host by IDNA, the rest as UTF-8."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    if not authority.isascii():
        try:
            parsed = URL(f"http://{authority}")
        except (ValueError, UnicodeError):
            _refuse(url, "its host is not a host name")
        port = "" if parsed.explicit_port is None else f":{parsed.explicit_port}"
        if "@" in authority:
            _refuse("", "it holds a user name or a password; use auth")
        authority = f"{parsed.raw_host}{port}"
    return quote(f"{scheme}://{authority}{path}", safe=_KEPT)


def _check(url: str) -> None:
    try:
        parsed = URL(url, encoded=True)
        host = parsed.raw_host or ""
    except ValueError:
        _refuse(url, "its host or its port is not valid")
    if parsed.scheme not in {"http", "https"}:
        _refuse(url, "it does not begin with http:// or https://")
    if parsed.raw_user is not None or parsed.raw_password is not None or "@" in parsed.raw_authority:
        _refuse(parsed.raw_path, "it holds a user name or a password; use auth")
    if not _is_host(host):
        _refuse(url, "its host is not a host name")
    if _DOTS.search(parsed.raw_path):
        _refuse(url, "its path holds . or .. as a part")


def _is_host(host: str) -> bool:
    if ":" not in host:
        return bool(_HOST.match(host)) and len(host) <= 253 and ".." not in host
    try:
        return IPv6Address(host).scope_id is None
    except ValueError:
        return False


def _refuse(url: str, why: str) -> NoReturn:
    raise UnusableUrlError(url, why)
