"""aiohttp's protocol of a connection, with a bound that it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.http import RawResponseMessage

MAX_UNREAD = 16  # answers


class BoundedProtocol(ResponseHandler):
    """Cuts off a server that sends more answers than anybody reads.

    One is read at a time, and interim ones (``100 Continue``, ``103 Early Hints``) before it. aiohttp takes as many as come:
    a server that sends nothing else fills the memory and holds up the event loop, which reads 8 MB at once.
    """

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """An answer's head was read."""
        if len(self) < MAX_UNREAD:
            super().feed_data(data, size)
        elif self.exception() is None:
            if self.transport is not None:
                self.transport.close()
            self.set_exception(HttpProcessingError(message=f"more than {MAX_UNREAD} answers at once"))
