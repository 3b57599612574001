"""A run as it happens: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

``step`` is an attempt that ended, ``run`` the run whenever its status is another; the last one is followed by nothing. The id
of an event is the number of attempts told so far, so whoever lost the connection goes on with ``Last-Event-ID``, on any
gateway. Events carry no payloads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse

from stepwell.domain.errors import StepwellError
from stepwell.domain.states import RunStatus
from stepwell_gateway.api.documents import run_document, step_document
from stepwell_gateway.api.rules import GET
from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from stepwell.adapters.postgres.run_reader import Progress, RunSummary
    from stepwell_gateway.api.listeners import Listener
    from stepwell_gateway.api.models import Document
    from stepwell_gateway.api.table import Call

HEARTBEAT = 15.0  # seconds of silence after which a comment is sent
PAGE = 100  # attempts read at once
RECONNECT = 2_000  # milliseconds after which a browser comes back

log = logging.getLogger(__name__)

_ID = re.compile(r"(\d{1,9})(\.end)?\Z", re.ASCII)


async def run_events(call: Call) -> Response:
    """The stream. 204 to who has heard the end already: so a browser stops to reconnect."""
    given = call.request.headers.get("last-event-id", "0")
    match = _ID.match(given)
    if match is None:
        raise Problem(400, "Last-Event-ID: it is none that this stream gave; leave it out to begin anew")
    if match[2]:
        return Response(status_code=204)
    stack = contextlib.ExitStack()
    listener = stack.enter_context(call.room.listeners.listening(call.of.id))
    return _Stream(Told(call, listener, int(match[1])), stack)


class _Stream(StreamingResponse):
    """Gives up its listener, however it ends."""

    def __init__(self, told: Told, stack: contextlib.ExitStack) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(told.stream(), headers=headers, media_type="text/event-stream")
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See Response."""
        with self._stack:
            await super().__call__(scope, receive, send)


class Told:
    """What one client has heard: ``seen`` attempts, and a status."""

    def __init__(self, call: Call, listener: Listener, seen: int) -> None:
        self._call = call
        self._listener = listener
        self._seen = seen
        self._status: str | None = None

    async def stream(self) -> AsyncIterator[bytes]:
        """Until the run has ended, the process stops, or the caller may no longer listen. What else breaks it off, the
        client comes back for.
        """
        yield b"retry: %d\n\n" % RECONNECT
        try:
            async for event in self._events():
                yield event
        except StepwellError as exc:
            log.info("a stream of events ends: %s", exc)

    async def _events(self) -> AsyncIterator[bytes]:
        stopping = asyncio.ensure_future(self._call.room.stopping.wait())
        news = asyncio.ensure_future(self._listener.next())
        try:
            while True:
                await asyncio.wait([news, stopping], timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done() or not await self._may():
                    return
                if not news.done():
                    yield b": alive\n\n"
                    continue
                progress = news.result()
                if progress is None:
                    return
                news = asyncio.ensure_future(self._listener.next())
                async for event in self._tell(progress):
                    yield event
                if RunStatus(progress.status).final:
                    return
        finally:
            for task in (stopping, news):
                task.cancel()
            await asyncio.gather(stopping, news, return_exceptions=True)

    async def _may(self) -> bool:
        """Access believes an answer for some seconds, so that this costs nothing at each event."""
        return await self._call.caller.may(GET, self._call.of.workflow)

    async def _tell(self, progress: Progress) -> AsyncIterator[bytes]:
        run = self._call.of
        final = RunStatus(progress.status).final
        if progress.status != self._status and not final:
            yield self._event("run", await self._as_it_is(run))
            self._status = progress.status
        while self._seen < progress.recorded:
            attempts = await self._call.room.reader.attempts(run, self._seen, PAGE, documents=False)
            if not attempts:
                break
            for attempt in attempts:
                self._seen += 1
                yield self._event("step", step_document(attempt, payloads=False))
        if final:
            yield self._event("run", await self._as_it_is(run), end=".end")

    async def _as_it_is(self, run: RunSummary) -> Document:
        return run_document(await self._call.room.reader.run(run.namespace, run.id))

    def _event(self, kind: str, document: Document, end: str = "") -> bytes:
        return b"id: %d%s\nevent: %s\ndata: %s\n\n" % (
            self._seen, end.encode(), kind.encode(), document.json_bytes(),
        )  # fmt: skip
