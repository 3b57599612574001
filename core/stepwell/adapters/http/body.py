"""Reading an answer's body within a bound, decompressed as it comes.

The bound counts decompressed bytes and is checked before more is decompressed, so that a small answer cannot grow into
a large one (a "gzip bomb"). aiohttp's own decompression is off: its bound is per chunk.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NoReturn

from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from aiohttp import StreamReader

ACCEPT_ENCODING = "gzip"
MAX_MEMBERS = 64  # of a gzip body; each costs a copy of the rest
_AUTOMATIC = 32 + zlib.MAX_WBITS  # zlib finds out by itself whether it reads gzip or zlib
_OVERHEAD = 4096  # by which compressed data may be longer than plain


class Body:
    """Gathers a body; ``bytes()`` is what has arrived so far, at most ``limit`` bytes."""

    __slots__ = ("_chunks", "_decoder", "_encoding", "_limit", "_members", "_received", "_size")

    def __init__(self, encoding: str, limit: int) -> None:
        self._chunks: list[bytes] = []
        self._size = 0  # decompressed
        self._received = 0  # as it came
        self._members = 1
        self._limit = limit
        self._encoding = encoding
        self._decoder: zlib._Decompress | None = None

    def __bytes__(self) -> bytes:
        return b"".join(self._chunks)

    async def read(self, stream: StreamReader) -> None:
        """Read to the end. Raises StepFailure for a body that is too large or not what it says it is."""
        if stream.at_eof():
            return  # without a body, as after HEAD, its encoding does not matter
        self._decoder = _decoder(self._encoding)
        while not stream.at_eof():
            chunk = await stream.readany()
            if self._decoder is None:
                self._add(chunk)
            else:
                self._decompress(chunk)
        if self._decoder is not None and self._received and not self._decoder.eof:
            raise StepFailure("InvalidResponse", "the compressed body ends too early")

    def _add(self, chunk: bytes) -> None:
        room = self._limit - self._size
        self._chunks.append(chunk[:room])
        self._size += len(chunk)
        if len(chunk) > room:
            self._too_large()

    def _decompress(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self._limit + _OVERHEAD:
            self._too_large()
        while chunk:
            decoder = self._next_member()
            try:
                plain = decoder.decompress(chunk, self._limit - self._size + 1)
            except zlib.error as exc:
                message = f"the compressed body cannot be read: {exc}"
                raise StepFailure("InvalidResponse", message) from exc
            self._add(plain)
            chunk = decoder.unconsumed_tail or decoder.unused_data

    def _next_member(self) -> zlib._Decompress:
        if self._decoder is None or self._decoder.eof:
            self._decoder = zlib.decompressobj(_AUTOMATIC)
            self._members += 1
            if self._members > MAX_MEMBERS:
                message = f"the compressed body has more than {MAX_MEMBERS} members"
                raise StepFailure("InvalidResponse", message)
        return self._decoder

    def _too_large(self) -> NoReturn:
        message = f"the body has more than {self._limit:,} bytes (maxResponseBytes)"
        raise StepFailure("ResponseTooLarge", message)


def _decoder(encoding: str) -> zlib._Decompress | None:
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return None
    if name in {"gzip", "x-gzip", "deflate"}:
        return zlib.decompressobj(_AUTOMATIC)
    message = f"the body is encoded as {encoding[:40]!r}; Stepwell reads gzip and deflate"
    raise StepFailure("InvalidResponse", message)
