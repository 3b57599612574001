"""What the gateway's process knows of itself, for its readiness."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Status:
    """Filled in by the process. Reading it asks nobody.

    That PostgreSQL is away makes a gateway no less ready: it answers 503 with Retry-After, which a load balancer
    without any ready gateway could not.
    """

    schema: str | None = "it was not looked at yet"
    """Why nothing may be written to the database as it is; None: its schema is this version's."""

    serving: bool = False
    """Whether the port is open and the process does not drain."""

    def told(self, schema: str | None) -> None:
        """Note why the schema does not fit, None where it does."""
        self.schema = schema

    def missing(self) -> dict[str, str]:
        """What readiness lacks, with why; nothing: ready."""
        found: dict[str, str] = {}
        if self.schema is not None:
            found["schema"] = self.schema
        if not self.serving:
            found["server"] = "it does not take requests, not yet or not any more"
        return found
