"""Compiled revisions, cached by id."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import orjson
from pydantic import ValidationError

from stepwell.domain.action import Actions
from stepwell.domain.compile import compile_revision
from stepwell.domain.errors import ManifestError
from stepwell.domain.model_problems import problems_of
from stepwell.domain.revision import Revision, Step
from stepwell.domain.spec import WorkflowSpec
from stepwell.engine.ports import StoredRevision

CAPACITY = 2_000  # revisions; a compiled one of three steps takes some tens of kilobytes


@dataclass(frozen=True, slots=True)
class LoadedRevision:
    """A compiled revision and whose it is."""

    id: int
    workflow_id: int
    namespace: str
    workflow: str
    revision: Revision
    steps: dict[str, Step] = field(repr=False)


class Revisions:
    """Loads and compiles a revision at its first use, once however many ask, and keeps the latest used."""

    def __init__(self, load: Callable[[int], Awaitable[StoredRevision]], actions: Actions) -> None:
        self._load = load
        self._actions = actions
        self._cache: OrderedDict[int, LoadedRevision] = OrderedDict()
        self._loading: dict[int, asyncio.Task[LoadedRevision]] = {}

    async def get(self, revision_id: int) -> LoadedRevision:
        """The compiled revision. Raises ManifestError where this version cannot run it, NotFoundError."""
        found = self._cache.get(revision_id)
        if found is not None:
            self._cache.move_to_end(revision_id)
            return found
        loading = self._loading.get(revision_id)
        if loading is None:
            loading = self._loading[revision_id] = asyncio.ensure_future(self._fetch(revision_id))
        return await asyncio.shield(loading)

    def clear(self) -> None:
        """Forget all: after a failover that lost commits, another revision may have a number that one of them had."""
        self._cache.clear()

    async def _fetch(self, revision_id: int) -> LoadedRevision:
        try:
            loaded = compile_stored(await self._load(revision_id), self._actions)
        finally:
            del self._loading[revision_id]
        self._cache[revision_id] = loaded
        if len(self._cache) > CAPACITY:
            self._cache.popitem(last=False)
        return loaded


def compile_stored(stored: StoredRevision, actions: Actions) -> LoadedRevision:
    """Compile what the store gave back. Raises ManifestError."""
    try:
        spec = WorkflowSpec.model_validate(orjson.loads(stored.spec))
    except ValidationError as exc:  # of a newer version, whose fields are not known here
        raise ManifestError(problems_of(exc, WorkflowSpec, "spec")) from exc
    revision = compile_revision(spec, actions)
    steps = {step.name: step for step in revision.steps}
    return LoadedRevision(stored.id, stored.workflow_id, stored.namespace, stored.workflow, revision, steps)
