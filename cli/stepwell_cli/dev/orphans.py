"""What a ``stepwell dev`` that was killed left in its own database, taken back without waiting for its silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.adapters.postgres.upkeep_store import PostgresUpkeepStore
from stepwell.engine.maintenance.leader import LEASE

if TYPE_CHECKING:
    from stepwell.adapters.postgres.session import Session


async def bury_workers(session: Session) -> None:
    """Declare every worker dead and let go of their lease.

    The server was started by us just now, so none of them can have beaten since. Should one live nevertheless, it begins a
    new life: what the declared dead still write is dropped.
    """
    store = PostgresUpkeepStore(session)
    for worker, counter in (await store.counters()).items():
        await store.declare_dead(worker, counter)
        await store.resign(LEASE, worker)
