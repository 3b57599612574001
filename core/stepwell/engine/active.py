"""The active revisions of workflows, asked for together and believed for a moment."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from stepwell.domain.errors import NotFoundError, StepwellError
from stepwell.engine.ports import ActiveWorkflow

FRESH = 1.0  # seconds that an answer is believed, from when it was asked for
CAPACITY = 20_000  # workflows that are remembered
MAX_ASKED = 1_000  # in one statement

Name: TypeAlias = tuple[str, str]
"""Namespace and name."""

Load: TypeAlias = Callable[[Sequence[Name]], Awaitable[Mapping[Name, ActiveWorkflow]]]


class ActiveWorkflows:
    """Looks workflows up. Who asks while a statement is under way waits for the next, which is one for all of them:
    neither ten thousand workflows nor a flood of names that do not exist makes many.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._known: OrderedDict[Name, tuple[float, ActiveWorkflow]] = OrderedDict()
        self._asked: dict[Name, asyncio.Future[ActiveWorkflow | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def get(self, namespace: str, name: str) -> ActiveWorkflow:
        """The workflow's active revision. Raises NotFoundError, UnavailableError."""
        key = (namespace, name)
        known = self._known.get(key)
        if known is not None and time.monotonic() - known[0] <= FRESH:
            return known[1]
        found = await asyncio.shield(self._ask(key))
        if found is None:
            message = f"there is no workflow {namespace}/{name}"
            raise NotFoundError(message)
        return found

    def forget(self, namespace: str, name: str) -> None:
        """Ask anew the next time."""
        self._known.pop((namespace, name), None)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()

    def _ask(self, key: Name) -> asyncio.Future[ActiveWorkflow | None]:
        waiting = self._asked.get(key)
        if waiting is None:
            waiting = self._asked[key] = asyncio.get_running_loop().create_future()
            waiting.add_done_callback(_seen)
            if self._asking is None:
                self._asking = asyncio.ensure_future(self._ask_all())
        return waiting

    async def _ask_all(self) -> None:
        try:
            while self._asked:
                batch = dict(list(self._asked.items())[:MAX_ASKED])
                for key in batch:
                    del self._asked[key]
                await self._answer(batch)
        finally:
            self._asking = None

    async def _answer(self, batch: dict[Name, asyncio.Future[ActiveWorkflow | None]]) -> None:
        asked = time.monotonic()
        try:
            found = await self._load(list(batch))
        except StepwellError as exc:
            for key, waiting in batch.items():
                self._known.pop(key, None)
                waiting.set_exception(type(exc)(str(exc)))
            return
        except BaseException:
            for waiting in batch.values():
                waiting.cancel()
            raise
        for key, waiting in batch.items():
            self._remember(key, asked, found.get(key))
            waiting.set_result(found.get(key))

    def _remember(self, key: Name, asked: float, found: ActiveWorkflow | None) -> None:
        self._known.pop(key, None)
        if found is not None:
            self._known[key] = (asked, found)
            if len(self._known) > CAPACITY:
                self._known.popitem(last=False)


def _seen(waiting: asyncio.Future[ActiveWorkflow | None]) -> None:
    """Whoever waited may be gone: then nobody else asks for the error."""
    if not waiting.cancelled():
        waiting.exception()
