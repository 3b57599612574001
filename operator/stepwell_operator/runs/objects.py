"""A WorkflowRun object as the operator sees it: what its spec asks for, and what its status says already."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stepwell.domain.durations import parse_duration
from stepwell.domain.ids import deterministic_uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping

RANKS = {"Queued": 1, "Running": 2, "Waiting": 3}
"""How far a status has come by its phase; any other phase is an end. A status only ever goes on to a higher one."""

END = 4


@dataclass(frozen=True, slots=True)
class Shown:
    """What the object's status says. ``rank``: 0 nothing yet, `RANKS` of its phase, or `END`.

    ``since`` is when the condition Succeeded changed its status last, ``ended_at`` is ``completionTime``,
    and ``started`` tells whether it names a run.
    """

    rank: int = 0
    since: datetime | None = None
    ended_at: datetime | None = None
    started: bool = False

    @property
    def finished(self) -> bool:
        """Whether it says that the run is over: then nothing is started any more."""
        return self.rank == END


@dataclass(frozen=True, slots=True)
class RunObject:
    """One WorkflowRun. ``ttl`` is in seconds; ``input`` is None once a run of it exists, to save memory."""

    uid: str
    namespace: str
    name: str
    version: str
    generation: int
    created_at: datetime
    workflow: str
    input: dict[str, Any] | None
    priority: str | None
    cancel: bool
    deleting: bool
    ttl: float | None
    shown: Shown

    @property
    def run_id(self) -> str:
        """The id of its run: the same whoever computes it, and however often."""
        return deterministic_uuid7(round(self.created_at.timestamp() * 1000), self.uid)

    @property
    def unwanted(self) -> bool:
        """Whether its run is to be cancelled."""
        return self.cancel or self.deleting


def parse(body: Mapping[str, Any]) -> RunObject:
    """The object of a body as the API server gives it: it holds what the CRD's schema and rules let in."""
    metadata, spec = body["metadata"], body["spec"]
    return RunObject(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        version=metadata["resourceVersion"],
        generation=metadata["generation"],
        created_at=_time(metadata["creationTimestamp"]),
        workflow=spec["workflowRef"]["name"],
        input=spec.get("input"),
        priority=spec.get("priority"),
        cancel=spec.get("cancel", False),
        deleting="deletionTimestamp" in metadata,
        ttl=parse_duration(spec["ttlAfterFinished"]) if "ttlAfterFinished" in spec else None,
        shown=_shown(body.get("status") or {}),
    )


def _shown(status: Mapping[str, Any]) -> Shown:
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    if not conditions:
        return Shown()
    since = _time(conditions["Succeeded"]["lastTransitionTime"]) if "Succeeded" in conditions else None
    started = "runId" in status
    if conditions.get("Finished", {}).get("status") == "True":
        ended = status.get("completionTime") or conditions["Finished"]["lastTransitionTime"]
        return Shown(END, since, _time(ended), started)
    return Shown(RANKS.get(str(status.get("phase")), 0), since, None, started)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
