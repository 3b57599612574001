"""Repeating runs on PostgreSQL: ``RerunStore`` of the engine, one statement a method."""

from __future__ import annotations

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.history_store import checked_id, unknown_run
from stepwell.adapters.postgres.session import Session
from stepwell.engine.ports import Accepted
from stepwell.engine.reruns import Repetition, SourceRun

_SQL = queries.load("control")


class PostgresRerunStore:
    """Over one session; ``keep_keys`` in seconds."""

    def __init__(self, session: Session, keep_keys: float = 86_400.0) -> None:
        self._session = session
        self._keep = f"{keep_keys} seconds"

    async def source(self, namespace: str, run_id: str) -> SourceRun:
        """See RerunStore."""
        params = {"run": checked_id(run_id), "namespace": namespace}
        rows = await self._session.execute(_SQL["source"], params)
        if not rows:
            raise unknown_run(run_id)
        return SourceRun(*rows[0])

    async def results(self, run_id: str) -> dict[str, str]:
        """See RerunStore."""
        rows = await self._session.execute(_SQL["results"], {"run": run_id})
        return {row[0]: row[1] for row in rows}

    async def begin(self, new: Repetition, *, again: bool = False) -> Accepted | None:
        """See RerunStore."""
        source = new.source
        params = {
            "id": new.id,
            "source": source.id,
            "namespace": source.namespace,
            "revision": new.revision_id,
            "active": new.active,
            "again": again,
            "priority": source.priority,
            "created_at": new.created_at,
            "input": None if new.input is None else new.input.decode(),
            "steps": list(new.steps),
            "items": list(new.items),
            "retry_of": source.id if new.retry else None,
            "rerun_of": None if new.retry else source.id,
            "key": new.key,
            "door": f"{'retry' if new.retry else 'rerun'} {source.id}",
            "input_hash": new.fingerprint.hex(),
            "keep": self._keep,
        }
        rows = await self._session.execute_once(_SQL["begin"], params)
        if not rows:
            return None
        run_id, fingerprint = rows[0]
        differs = fingerprint is not None and fingerprint != new.fingerprint.hex()
        return Accepted(run_id, run_id != new.id, differs)
