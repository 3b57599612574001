"""The active revisions of workflows, asked for together and believed for a moment."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from stepwell.domain.errors import NotFoundError, StepwellError
from stepwell.engine.ports import ActiveWorkflow
from stepwell.engine.together import Together

FRESH = 1.0  # seconds that an answer is believed, from when it was asked for
CAPACITY = 20_000  # workflows that are remembered, and as many names that there are none of

Name: TypeAlias = tuple[str, str]
"""Namespace and name."""


class ActiveWorkflows:
    """Looks workflows up: one statement for all who ask meanwhile, so that neither ten thousand workflows nor a flood of
    names that do not exist makes many.
    """

    def __init__(self, load: Callable[[Sequence[Name]], Awaitable[Mapping[Name, ActiveWorkflow]]]) -> None:
        self._together = Together(load)
        self._known: OrderedDict[Name, tuple[float, ActiveWorkflow]] = OrderedDict()
        self._absent: OrderedDict[Name, float] = OrderedDict()

    async def get(self, namespace: str, name: str) -> ActiveWorkflow:
        """The workflow's active revision. Raises NotFoundError, UnavailableError."""
        known = self._known.get((namespace, name))
        if known is not None and time.monotonic() - known[0] <= FRESH:
            return known[1]
        found = await self._look((namespace, name))
        if found is None:
            message = f"there is no workflow {namespace}/{name}"
            raise NotFoundError(message)
        return found

    async def find(self, namespace: str, name: str) -> ActiveWorkflow | None:
        """The same; None where there was none a moment ago. So nobody can tell by the time that it takes."""
        key = (namespace, name)
        known = self._known.get(key)
        if known is not None and time.monotonic() - known[0] <= FRESH:
            return known[1]
        absent = self._absent.get(key)
        if absent is not None and time.monotonic() - absent <= FRESH:
            return None
        return await self._look(key)

    def forget(self, namespace: str, name: str) -> None:
        """Ask anew the next time."""
        self._known.pop((namespace, name), None)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
        self._absent.clear()

    async def _look(self, key: Name) -> ActiveWorkflow | None:
        asked = time.monotonic()
        try:
            found = await self._together.get(key)
        except StepwellError:
            self._known.pop(key, None)
            raise
        self._known.pop(key, None)
        self._absent.pop(key, None)
        if found is None:
            self._absent[key] = asked
            _bound(self._absent)
        else:
            self._known[key] = (asked, found)
            _bound(self._known)
        return found


def _bound(cache: OrderedDict[Name, float] | OrderedDict[Name, tuple[float, ActiveWorkflow]]) -> None:
    if len(cache) > CAPACITY:
        cache.popitem(last=False)
