"""What the operator's process lacks to be ready."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class Readiness:
    """Filled in by the process. Reading it costs nothing and asks nobody.

    An absent database is not among it: the admission webhook, which only ready pods serve, does not need one, and each
    Workflow says that it waits for it.
    """

    schema: str | None = "it was not looked at yet"
    """Why nothing may be read from the database as it is; None: its schema is this version's."""

    watching: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while resources are watched."""

    def told(self, schema: str | None) -> None:
        """Note why the schema does not fit, None where it does."""
        self.schema = schema

    def missing(self) -> dict[str, str]:
        """What readiness lacks, with why; nothing: ready."""
        found: dict[str, str] = {}
        if self.schema is not None:
            found["schema"] = self.schema
        if not self.watching.is_set():
            found["kubernetes"] = "resources are not watched"
        return found
