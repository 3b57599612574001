"""What the secrets of an ``httpCall`` add to its requests.

Refused at apply: what two places would set, and what no header may hold. The values are read when they are used, at every
attempt, after the request was rendered; so no expression ever sees them.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from stepwell.actions.http_render import HOP_BY_HOP, MAX_HEADER_VALUE, has_control
from stepwell.actions.http_secrets import Note, Reader
from stepwell.actions.http_url import UnusableUrlError, clean_url, origin, with_more_query, with_query
from stepwell.domain.masking import MIN_BYTES, NO_MASK, Mask, mask_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.domain.action import Compiler
    from stepwell.domain.http import Headers, HttpRequest
    from stepwell.domain.http_spec import HttpAuth, HttpCall
    from stepwell.domain.secrets import SecretResolver

_WORD = 16  # letters: a shorter part of a URL that holds nothing else is taken for a word, not for a secret


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What is added to a request; ``mask`` hides it again. Read for the ``origin`` of the first request only."""

    origin: tuple[str, str, int | None] | None = None
    headers: Headers = ()
    query: tuple[tuple[str, str], ...] = ()
    confidential: bool = False
    ca: bytes | None = None
    mask: Mask = NO_MASK

    def sign(self, request: HttpRequest) -> HttpRequest:
        """The request with the credentials."""
        own = {name.lower() for name, _ in self.headers}
        kept = tuple(pair for pair in request.headers if pair[0].lower() not in own)
        url = self._with_query(request.url) if self.query else request.url
        return replace(request, url=url, headers=kept + self.headers, confidential=self.confidential, ca=self.ca)

    def _with_query(self, url: str) -> str:
        """A redirect within the origin may name the parameters already."""
        given = {name for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
        return with_query(url, [pair for pair in self.query if pair[0] not in given])

    def leave(self, request: HttpRequest) -> Credentials:
        """What is left for a request that was redirected: everything within the origin, else only the trust."""
        return self if origin(request.url) == self.origin else Credentials(ca=self.ca, mask=self.mask)


NO_CREDENTIALS = Credentials()


def check_auth(spec: HttpCall, compiler: Compiler) -> None:
    """Refuse, at apply, an ``auth`` that contradicts the rest of the call."""
    if spec.tls is not None and (spec.url or "").lower().startswith("http://"):
        compiler.refuse("tls is for https, but the url begins with http://; take one of them away", ".tls")
    if spec.auth is None:
        return
    headers = {name.lower(): name for name in spec.headers or {}}
    if (spec.auth.bearer or spec.auth.basic) and "authorization" in headers:
        _twice(compiler, "the header Authorization", f".headers.{headers['authorization']}")
    for index, header in enumerate(spec.auth.headers or ()):
        place = f".auth.headers[{index}]"
        if header.name.lower() in HOP_BY_HOP:
            message = f"the header {header.name} belongs to the connection, which Stepwell makes; take it away"
            compiler.refuse(message, f"{place}.name")
        elif header.name.lower() in headers:
            _twice(compiler, f"the header {header.name}", f"{place}.name")
        if has_control(header.prefix or ""):
            compiler.refuse("a header holds no control character, such as a line break", f"{place}.prefix")
        headers[header.name.lower()] = header.name
    names = set(spec.query or {})
    for index, parameter in enumerate(spec.auth.query or ()):
        if parameter.name in names:
            _twice(compiler, f"the parameter {parameter.name}", f".auth.query[{index}].name")
        names.add(parameter.name)


def _twice(compiler: Compiler, what: str, suffix: str) -> None:
    compiler.refuse(f"{what} is set twice, here and by another field; take one of them away", suffix)


def uses_secrets(spec: HttpCall) -> bool:
    """Whether the call reads any Secret."""
    return spec.url_from is not None or spec.auth is not None or spec.tls is not None


async def located(
    request: HttpRequest, spec: HttpCall, resolver: SecretResolver, note: Note
) -> tuple[HttpRequest, Credentials]:
    """The request with its URL, and what is to be added. Raises StepFailure where a Secret cannot be used for it."""
    reader = Reader(resolver, request.namespace, note)
    values: list[bytes] = []
    if spec.url_from is not None:
        ref = spec.url_from.secret_ref
        text = await reader.text(ref.name, ref.key)
        values += _parts_of_url(text)
        try:
            url = clean_url(text)
        except UnusableUrlError as exc:
            raise reader.invalid(ref.name, ref.key, f"is not a URL that httpCall can use: {exc.why}") from None
        request = replace(request, url=with_more_query(url, request.url))
        values += _parts_of_url(url)
    where = origin(request.url)
    headers, query = await _read_auth(spec.auth, reader, values) if spec.auth else ((), ())
    reader.check_hosts(where[1], where[2])
    ca = await reader.certificates(spec.tls.ca_secret_ref) if spec.tls else None
    confidential = spec.url_from is not None or spec.auth is not None
    return request, Credentials(where, headers, query, confidential, ca, mask_of(tuple(values)))


async def _read_auth(
    auth: HttpAuth, reader: Reader, values: list[bytes]
) -> tuple[Headers, tuple[tuple[str, str], ...]]:
    headers: list[tuple[str, str]] = []
    query: list[tuple[str, str]] = []

    async def value(name: str, key: str) -> str:
        text = await reader.text(name, key, MAX_HEADER_VALUE)
        values.append(text.encode())
        return text

    if auth.bearer is not None:
        token = await value(auth.bearer.secret_ref.name, auth.bearer.secret_ref.key)
        headers.append(("Authorization", f"Bearer {token}"))
    if auth.basic is not None:
        name = auth.basic.secret_name
        user, password = await value(name, "username"), await value(name, "password")
        if ":" in user:
            raise reader.invalid(name, "username", "holds a colon, which basic authentication cannot send (RFC 7617)")
        pair = f"{user}:{password}".encode()
        encoded = b64encode(pair)
        values += [pair, encoded]
        headers.append(("Authorization", f"Basic {encoded.decode()}"))
    for header in auth.headers or ():
        text = await value(header.secret_ref.name, header.secret_ref.key)
        headers.append((header.name, f"{header.prefix or ''}{text}"))
    for parameter in auth.query or ():
        query.append((parameter.name, await value(parameter.secret_ref.name, parameter.secret_ref.key)))  # noqa: PERF401
    return tuple(headers), tuple(query)


def _parts_of_url(url: str) -> Iterator[bytes]:
    """What a server may repeat of a secret URL: all behind the host, and each part of it that is no plain word."""
    _, _, rest = url.partition("://")
    _, _, target = rest.partition("/")
    if len(target) < MIN_BYTES:
        target = url
    yield target.encode()
    yield unquote(target).encode()
    path, _, query = target.partition("?")
    parts = [*path.split("/"), *(pair.partition("=")[2] for pair in query.split("&"))]
    for part in (path, *parts, *map(unquote, parts)):
        if len(part) >= _WORD or not part.isalpha():
            yield part.encode()
