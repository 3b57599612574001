"""What an HTTP answer means to a step: its output, what stands beside it, or why it failed."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import TYPE_CHECKING

from stepwell.domain.documents import JsonObject, JsonValue, check, loads
from stepwell.domain.errors import DocumentError
from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from stepwell.domain.http import HttpRequest, HttpResponse
    from stepwell.domain.masking import Mask

MAX_HEADERS = 64
MAX_HEADER = 1024  # characters of a value; longer ones are cut
MAX_EXCERPT = 300
MAX_SHOWN_URL = 200

_PRIVATE = frozenset(
    {
        "set-cookie",
        "set-cookie2",
        "authorization",
        "proxy-authorization",
        "www-authenticate",
        "proxy-authenticate",
        "authentication-info",
        "proxy-authentication-info",
    }
)
_JSON = re.compile(r"(?:application|text)/(?:[a-z0-9.+_-]+\+)?json\Z")
_CHARSET = re.compile(r""";\s*charset\s*=\s*"?([^\s";]*)""", re.IGNORECASE)
_NOT_TEXT = frozenset(
    {"base64_codec", "bz2_codec", "hex_codec", "mbcs", "quopri_codec", "rot_13", "utf_7", "uu_codec", "zlib_codec"}
)
_CODECS = (frozenset(aliases.values()) | {"cp874", "koi8_u", "utf_8_sig"}) - _NOT_TEXT
"""Python's codecs that are charsets. Its ``punycode`` would hold up the process for a minute with a long text."""
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")


def decode(response: HttpResponse, max_bytes: int) -> JsonValue:
    """The body: null if it is empty, JSON if it says so (or says nothing and is), else text.

    Raises StepFailure for a body that is not what its Content-Type says, or that cannot be stored.
    """
    if not response.body:
        return None
    media_type, charset = _content_type(response.header("content-type"))
    try:
        if _JSON.match(media_type):
            return _json(response.body, charset, max_bytes)
        if not media_type:
            try:
                return _json(response.body, charset, max_bytes)
            except DocumentError:
                pass
        return _text(response.body, charset)
    except DocumentError as exc:
        raise StepFailure("InvalidResponse", str(exc)) from exc


def shown(response: HttpResponse, mask: Mask) -> JsonObject:
    """``steps.<name>.http``: the status and the headers, without credentials, bounded."""
    headers: dict[str, JsonValue] = {}
    for name, value in response.headers:
        if name in _PRIVATE:
            continue
        key, text = mask.text(readable(name))[:MAX_HEADER], mask.text(readable(value))
        if key in headers:
            headers[key] = f"{headers[key]}, {text}"[:MAX_HEADER]
        elif len(headers) < MAX_HEADERS:
            headers[key] = text[:MAX_HEADER]
    return {"status": response.status, "headers": headers}


def request_line(request: HttpRequest, mask: Mask) -> str:
    """Method and URL for a message."""
    url = mask.text(request.url)
    return f"{request.method} {url if len(url) <= MAX_SHOWN_URL else f'{url[:MAX_SHOWN_URL]}…'}"


def answered(request: HttpRequest, response: HttpResponse, mask: Mask) -> str:
    """What was asked and what came, for a message: request line, status, and the beginning of the body."""
    reason = mask.text(readable(response.reason))[:64]
    answer = f"{response.status} {reason}".rstrip()
    excerpt = _excerpt(response, mask)
    return f"{request_line(request, mask)} answered {answer}" + (f": {excerpt}" if excerpt else "")


def unexpected(request: HttpRequest, response: HttpResponse, mask: Mask) -> StepFailure:
    """The failure for a status that the step does not expect."""
    return StepFailure(
        "UnexpectedStatus",
        answered(request, response, mask),
        status=response.status,
        retry_after=retry_after(response),
        http=shown(response, mask),
    )


def holds_secret(response: HttpResponse, mask: Mask) -> bool:
    """Whether the answer repeats a secret anywhere, so that nothing of it may be quoted unseen."""
    if not mask:
        return False
    headers = " ".join(f"{name} {value}" for name, value in response.headers)
    return mask.found(_readable_body(response.body, response)) or mask.found(headers) or mask.found(response.reason)


def _excerpt(response: HttpResponse, mask: Mask) -> str:
    """Masked before anything is cut or white space is gathered: half of a secret is one, too."""
    body = response.body if mask else response.body[: 4 * MAX_EXCERPT]
    text = mask.text(_readable_body(body, response), cut=response.failure is not None)
    plain = _NOT_SHOWN.sub(" ", text[: 4 * MAX_EXCERPT]).strip()
    return plain if len(plain) <= MAX_EXCERPT else f"{plain[: MAX_EXCERPT - 1]}…"


def _readable_body(body: bytes, response: HttpResponse) -> str:
    _, charset = _content_type(response.header("content-type"))
    return body.decode(_codec(charset) or "utf-8", "replace").replace("\0", "")


def retry_after(response: HttpResponse, now: datetime | None = None) -> float | None:
    """The pause that the answer asks for, in seconds: a number, or a date against the server's own ``Date``."""
    asked = (response.header("retry-after") or "").strip()
    if asked.isdecimal() and asked.isascii():
        return float(asked[:12])
    until = _date(asked)
    if until is None:
        return None
    since = _date(response.header("date") or "") or now or datetime.now(UTC)
    return max(0.0, (until - since).total_seconds())


def readable(text: str) -> str:
    """Header text without what cannot be stored: aiohttp keeps undecodable bytes as lone surrogates."""
    if text.isascii() and text.isprintable():
        return text
    plain = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else " " for char in plain)


def _date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _content_type(header: str | None) -> tuple[str, str]:
    """The media type and the charset, in lower case."""
    if not header:
        return "", ""
    media_type, _, _ = header.partition(";")
    charset = _CHARSET.search(header)
    return media_type.strip().lower(), charset[1].lower() if charset else ""


def _codec(charset: str) -> str | None:
    """Python's name of a charset, in any spelling that it takes (``-Latin_1`` is ``latin_1``); None where it has none."""
    name = normalize_encoding(charset or "utf-8").lower()
    name = aliases.get(name, name)
    return name if name in _CODECS else None


def _json(body: bytes, charset: str, max_bytes: int) -> JsonValue:
    if charset not in {"", "utf-8", "utf8", "us-ascii"}:
        return loads(_text(body, charset), max_bytes=4 * max_bytes, what="the response body")
    return loads(body.removeprefix(b"\xef\xbb\xbf"), max_bytes=max_bytes, what="the response body")


def _text(body: bytes, charset: str) -> str:
    codec = _codec(charset)
    if codec is None:
        message = f"the response body is text in {readable(charset)[:40]!r}, which Stepwell does not read"
        raise DocumentError(message)
    try:
        text = body.decode(codec)
    except UnicodeError as exc:
        message = f"the response body is not {readable(charset)[:40] or 'utf-8'} text (Stepwell keeps JSON and text, not binary data)"
        raise DocumentError(message) from exc
    check(text, what="the response body")
    return text.removeprefix("\ufeff")
