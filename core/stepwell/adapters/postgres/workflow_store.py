"""Workflows as they stand in the database, for whoever keeps them in step with manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stepwell.adapters.postgres import queries
from stepwell.domain.errors import NotFoundError

if TYPE_CHECKING:
    from stepwell.adapters.postgres.session import Session

_SQL = queries.load("workflows")


class StandingWorkflow(NamedTuple):
    """A workflow that is not deleted; ``hash`` is its active revision's."""

    namespace: str
    name: str
    revision_id: int
    hash: bytes


class WorkflowStore:
    """Over one session. Raises UnavailableError where PostgreSQL does not answer."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def standing(self) -> list[StandingWorkflow]:
        """Every workflow that is not deleted."""
        return [StandingWorkflow(*row) for row in await self._session.execute(_SQL["standing"])]

    async def withdraw(self, namespace: str, name: str) -> bool:
        """Delete a workflow: nothing starts it any more, what was accepted ends. Whether it stood until now."""
        return bool(await self._session.execute(_SQL["withdraw"], {"namespace": namespace, "name": name}))

    async def name(self, number: int) -> str:
        """The name of a workflow, deleted or not, as ``namespace/name``. Raises NotFoundError."""
        rows = await self._session.execute(_SQL["name"], {"workflow": number})
        if not rows:
            message = f"there is no workflow with the number {number}"
            raise NotFoundError(message)
        return f"{rows[0][0]}/{rows[0][1]}"
