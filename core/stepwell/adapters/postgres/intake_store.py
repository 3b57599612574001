"""Intake on PostgreSQL: ``IntakeStore`` of the engine, and what applying a manifest does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

import orjson

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.run_store import bigint_array, uuid_array
from stepwell.adapters.postgres.session import Session
from stepwell.domain.errors import DataRefusedError
from stepwell.engine.apply import NewRevision
from stepwell.engine.intake import input_hash
from stepwell.engine.ports import PRIORITIES, Accepted, ActiveWorkflow, NewRun

_INTAKE = queries.load("intake")
_SQL = queries.load("workflows")
_NUMBERS = {name: number for number, name in PRIORITIES.items()}

AGAIN: LiteralString = _INTAKE["again"] + "\n" + _INTAKE["answer"]
AGAIN_OF_OBJECTS: LiteralString = _INTAKE["again"] + "\n" + _INTAKE["objects"] + "\n" + _INTAKE["answer"]


class PostgresIntakeStore:
    """One session: batches go one after another, so that the next one gathers meanwhile. ``lookups``: another one, for
    what is read, so that it waits for no commit.
    """

    def __init__(self, session: Session, keep_keys: float = 86_400.0, *, lookups: Session | None = None) -> None:
        self._session = session
        self._lookups = lookups or session
        self._keep = f"{keep_keys} seconds"

    async def accept(self, runs: Sequence[NewRun], *, again: bool = False) -> dict[str, Accepted]:
        """See IntakeStore."""
        hashes = {run.id: input_hash(run.input).hex() for run in runs if run.key is not None}
        params: dict[str, object] = {
            "runs": _serialised([_row(run, hashes.get(run.id)) for run in runs]),
            "workflows": bigint_array({run.workflow_id for run in runs}),
            "keep": self._keep,
        }
        if known := [run.id for run in runs if again or run.may_exist]:
            objects = any(run.run_object is not None for run in runs)
            statement = AGAIN_OF_OBJECTS if objects else AGAIN
            rows = await self._session.execute_once(statement, params | {"ids": uuid_array(known)})
        else:
            rows = await self._session.execute(_INTAKE["accept"], params)
        plain = {row[0] for row in rows if row[3] is None}
        keyed = {row[1:4]: (row[0], row[4]) for row in rows if row[3] is not None}
        answers = {run.id: Accepted(run.id, repeated=False, input_differs=False) for run in runs if run.id in plain}
        for run in runs:
            found = keyed.get((run.workflow_id, run.trigger, run.key))
            if found is not None:
                run_id, stored_hash = found
                answers[run.id] = Accepted(run_id, run_id != run.id, stored_hash != hashes[run.id])
        return answers

    async def active_workflows(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], ActiveWorkflow]:
        """See IntakeStore."""
        asked = dict.fromkeys(names)
        params = {"namespaces": [key[0] for key in asked], "names": [key[1] for key in asked]}
        rows = await self._lookups.execute(_SQL["active_workflows"], params)
        return {(row[0], row[1]): ActiveWorkflow(*row[2:]) for row in rows}

    async def apply(self, revision: NewRevision) -> ActiveWorkflow:
        """Make this the workflow's active revision; the same spec again makes no new one."""
        params = {
            "namespace": revision.namespace,
            "name": revision.name,
            "suspended": revision.suspended,
            "hash": revision.hash,
            "spec": revision.spec.decode(),
            "features": list(revision.features),
            "retain_succeeded": revision.retain_succeeded,
            "retain_failed": revision.retain_failed,
        }
        await self._session.execute(_SQL["apply_workflow"], params)
        names = {key: params[key] for key in ("namespace", "name", "hash")}
        rows = await self._session.execute(_SQL["activate_revision"], names)
        return ActiveWorkflow(*rows[0])


def _serialised(rows: list[dict[str, object]]) -> str:
    try:
        return orjson.dumps(rows).decode()
    except orjson.JSONEncodeError as exc:  # a lone surrogate in a key, say: one start's fault, not the batch's
        message = f"intake: {exc}"
        raise DataRefusedError(message) from exc


def _row(run: NewRun, input_hash: str | None) -> dict[str, object]:
    row: dict[str, object] = {
        "id": run.id,
        "workflow_id": run.workflow_id,
        "revision_id": run.revision_id,
        "namespace": run.namespace,
        "trigger": run.trigger,
        "priority": _NUMBERS[run.priority],
        "created_at": run.created_at,
        "input": orjson.Fragment(run.input),
    }
    if run.event_id is not None:
        row["event_id"] = run.event_id
    if run.run_object is not None:
        row["run_object"] = run.run_object
    if run.key is not None:
        row |= {"key": run.key, "input_hash": input_hash}
    return row
