"""Runs that repeat ended ones: `:retry` goes on where one failed, `:rerun` does it again.

Both make a new run with lineage; the ended one stays as it is. What is taken over are final results of steps, copied in
the transaction that makes the run: to its worker they are durable results like any others, so none of them runs again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import orjson

from stepwell.domain.documents import JsonObject, dumps
from stepwell.domain.errors import ConflictError, InputError, ManifestError, StepwellError, UnavailableError
from stepwell.domain.ids import uuid7
from stepwell.domain.revision import Step
from stepwell.domain.states import RunStatus, StepStatus
from stepwell.engine.backoff import Backoff
from stepwell.engine.clock import Clock
from stepwell.engine.intake import PATIENCE, SuspendedError, input_hash
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.ports import PRIORITIES, Accepted, ReadyRun
from stepwell.engine.revisions import LoadedRevision, Revisions

_TRIES = 3  # while the workflow changes under our hands


class NotRepeatableError(StepwellError):
    """The run cannot be retried or run again as it was asked."""

    exit_code = 2


class SourceRun(NamedTuple):
    """The run that is to be repeated, and its workflow as it stands now. ``input`` is JSON text."""

    id: str
    namespace: str
    workflow: str
    workflow_id: int
    revision_id: int
    status: str
    priority: int
    input: str
    active_revision_id: int | None
    suspended: bool
    deleted: bool


@dataclass(frozen=True, slots=True)
class Repetition:
    """A run to be made. ``input`` None: the source's own; ``steps`` are those whose results it takes over, ``items``
    those of whose items the successes are.

    ``active``: ``revision_id`` must still be the workflow's active one.
    """

    id: str
    source: SourceRun
    retry: bool
    revision_id: int
    active: bool
    created_at: int
    input: bytes | None = None
    steps: Sequence[str] = ()
    items: Sequence[str] = ()
    key: str | None = None
    fingerprint: bytes = b""


class RerunStore(Protocol):
    """Where runs are repeated. Raises UnavailableError where it does not answer."""

    async def source(self, namespace: str, run_id: str) -> SourceRun:
        """A run of a namespace, with its workflow. Raises NotFoundError."""

    async def results(self, run_id: str) -> dict[str, str]:
        """The final status of each step of a run that has one."""

    async def begin(self, new: Repetition, *, again: bool = False) -> Accepted | None:
        """Make the run in one transaction; with a key that was used, the answer is the first run's.

        None: the source or its workflow is no longer as it was read. ``again``: an answer was lost, and the same
        repetition is sent as it was.
        """


class Reruns:
    """Repeats ended runs. Raises NotFoundError, NotRepeatableError, SuspendedError, InputError, UnavailableError."""

    def __init__(self, store: RerunStore, revisions: Revisions, offers: Offers, clock: Clock) -> None:
        self._store = store
        self._revisions = revisions
        self._offers = offers
        self._clock = clock

    async def retry(self, namespace: str, run_id: str, *, key: str | None = None) -> Accepted:
        """A new run on the same revision that executes the steps which have no final result yet."""
        source = await self._source(namespace, run_id)
        if source.status == RunStatus.SUCCEEDED:
            message = f"run {run_id} succeeded, so there is nothing to retry; :rerun does it again"
            raise NotRepeatableError(message)
        loaded = await self._loaded(source.revision_id)
        steps = finished_steps(loaded, await self._store.results(source.id))
        items = [s.name for s in loaded.revision.main if s.for_each is not None and s.name not in steps]
        accepted = await self._commit(self._repetition(source, retry=True, steps=steps, items=items, key=key))
        return accepted or await self._changed(namespace, run_id)

    async def rerun(
        self,
        namespace: str,
        run_id: str,
        *,
        value: JsonObject | None = None,
        from_step: str | None = None,
        key: str | None = None,
    ) -> Accepted:
        """A new run on the active revision; or, ``from_step``, on the run's own with the results before that step.

        ``value`` is another input. It goes with no ``from_step``: the results were made of the first one.
        """
        if from_step is not None:
            if value is not None:
                message = "give input or fromStep: the results before the step were made of the run's own input"
                raise InputError(message)
            return await self._rerun_from(namespace, run_id, from_step, key)
        for _ in range(_TRIES):
            source = await self._source(namespace, run_id)
            document = await self._checked(source, value)
            new = self._repetition(source, retry=False, document=document, key=key)
            accepted = await self._commit(new)
            if accepted is not None:
                return accepted
        return await self._changed(namespace, run_id)

    async def _rerun_from(self, namespace: str, run_id: str, from_step: str, key: str | None) -> Accepted:
        source = await self._source(namespace, run_id)
        loaded = await self._loaded(source.revision_id)
        steps = steps_before(loaded, await self._store.results(source.id), from_step)
        new = self._repetition(source, retry=False, steps=steps, key=key, said=from_step)
        return await self._commit(new) or await self._changed(namespace, run_id)

    async def _source(self, namespace: str, run_id: str) -> SourceRun:
        source = await self._store.source(namespace, run_id)
        workflow = f"{source.namespace}/{source.workflow}"
        if not RunStatus(source.status).final:
            message = f"run {run_id} is {source.status}; only a run that ended can be repeated: cancel it, or wait"
            raise NotRepeatableError(message)
        if source.deleted or source.active_revision_id is None:
            message = f"workflow {workflow} was deleted; apply it again first"
            raise NotRepeatableError(message)
        if source.suspended:
            message = f"workflow {workflow} is suspended; set spec.suspend to false"
            raise SuspendedError(message)
        return source

    async def _loaded(self, revision_id: int) -> LoadedRevision:
        try:
            return await self._revisions.get(revision_id)
        except ManifestError as exc:
            message = f"the run's revision uses what this version of Stepwell does not know: {exc}"
            raise NotRepeatableError(message) from exc

    async def _checked(self, source: SourceRun, value: JsonObject | None) -> bytes:
        """The input as the active revision wants it."""
        loaded = await self._loaded(source.active_revision_id or 0)
        given: JsonObject = orjson.loads(source.input) if value is None else value
        schema = loaded.revision.input_schema
        return dumps(given if schema is None else schema.validate(given))

    def _repetition(
        self,
        source: SourceRun,
        *,
        retry: bool,
        document: bytes | None = None,
        steps: Sequence[str] = (),
        items: Sequence[str] = (),
        key: str | None = None,
        said: str = "",
    ) -> Repetition:
        """``document`` is the input of a run on the active revision, None of one on the source's own."""
        now = self._clock.micros()
        revision = source.revision_id if document is None else source.active_revision_id
        return Repetition(
            id=uuid7(now // 1000, os.urandom(10)),
            source=source,
            retry=retry,
            revision_id=revision or 0,
            active=document is not None,
            created_at=now,
            input=document,
            steps=steps,
            items=items,
            key=key,
            fingerprint=input_hash(dumps({"input": source.input, "from": said}) if document is None else document),
        )

    async def _commit(self, new: Repetition) -> Accepted | None:
        deadline = time.monotonic() + PATIENCE
        backoff = Backoff()
        again = False
        while True:
            try:
                accepted = await self._store.begin(new, again=again)
                break
            except (UnavailableError, ConflictError) as exc:
                if time.monotonic() > deadline:
                    raise UnavailableError(str(exc)) from exc
                again |= isinstance(exc, UnavailableError)
                await backoff.pause()
        if accepted is not None and not accepted.repeated:
            priority = PRIORITIES[new.source.priority]
            await self._offers.add([ReadyRun(new.id, new.source.namespace, new.created_at // 1000, priority)])
        return accepted

    async def _changed(self, namespace: str, run_id: str) -> Accepted:
        """Say what stands in the way now; where nothing does, it was changing a moment ago."""
        source = await self._source(namespace, run_id)
        message = f"workflow {source.namespace}/{source.workflow} keeps changing; try again"
        raise UnavailableError(message)


def finished_steps(loaded: LoadedRevision, results: Mapping[str, str]) -> list[str]:
    """The steps whose result stands: succeeded, skipped, and failed where the run went on (``onError: Continue``).

    Handlers run anew: the new run has an end of its own.
    """
    return [step.name for step in loaded.revision.main if _stands(step, results.get(step.name))]


def steps_before(loaded: LoadedRevision, results: Mapping[str, str], from_step: str) -> list[str]:
    """The steps whose result stands and needs neither ``from_step`` nor what follows from it.

    Raises InputError where there is no such step, NotRepeatableError where it needs a result that the run never had.
    """
    start = next((step for step in loaded.revision.main if step.name == from_step), None)
    if start is None:
        known = ", ".join(step.name for step in loaded.revision.main)
        message = f"the run has no step {from_step!r}; its steps are {known}"
        raise InputError(message)
    stands = finished_steps(loaded, results)
    missing = [s.name for s in loaded.revision.steps if start.ancestors & s.bit and s.name not in stands]
    if missing:
        message = f"step {from_step} needs the result of {missing[0]}, which the run never had; begin there, or retry"
        raise NotRepeatableError(message)
    redone = start.bit
    return [n for n in stands if not (loaded.steps[n].ancestors | loaded.steps[n].bit) & redone]


def _stands(step: Step, status: str | None) -> bool:
    if status == StepStatus.FAILED:
        return step.continue_on_error
    return status is not None
