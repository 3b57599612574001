"""What the operator holds of each Workflow while it runs: little, and never its spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepwell_operator.workflows.decide import Facts, Outcome, Status, Synced, Unavailable

if TYPE_CHECKING:
    from stepwell.adapters.postgres.resource_store import ResourceName
    from stepwell_operator.workflows.resource import Resource


@dataclass(slots=True)
class Entry:
    """One object. ``generation`` and ``digest`` are of ``outcome``, ``version`` is the resource version that ``status`` is of,
    ``asked`` the status that was written last, if nobody wrote since: another manager's part of it makes the two differ.
    Times are monotonic.
    """

    name: ResourceName
    uid: str
    generation: int
    version: int
    status: Status
    heard_at: float
    outcome: Outcome | None = None
    digest: bytes = b""
    settled_at: float = float("-inf")
    workflow_id: int | None = None
    facts: Facts = field(default_factory=Facts)
    refreshed_at: float = float("-inf")
    asked: Status | None = None

    def heard(self, resource: Resource, now: float) -> None:
        """Take over what is newer than what we know, our own last write included."""
        self.heard_at = now
        if resource.version > self.version:
            self.asked = None
        if resource.version >= self.version:
            self.version, self.status = resource.version, resource.status

    @property
    def ready(self) -> str:
        """The status of its condition Ready, as far as it is known."""
        return "Unknown" if self.outcome is None else str(isinstance(self.outcome, Synced))


class Entries:
    """By name; of two objects with one name the newer one."""

    def __init__(self) -> None:
        self._by_name: dict[ResourceName, Entry] = {}

    def get(self, name: ResourceName) -> Entry | None:
        """The entry of this name."""
        return self._by_name.get(name)

    def all(self) -> list[Entry]:
        """All of them."""
        return list(self._by_name.values())

    def take(self, resource: Resource, now: float) -> Entry:
        """Note what was heard of an object; its entry."""
        entry = self._by_name.get(resource.name)
        if entry is None or entry.uid != resource.uid:
            entry = Entry(
                resource.name, resource.uid, resource.generation, resource.version, resource.status, heard_at=now
            )
            self._by_name[resource.name] = entry
        else:
            entry.heard(resource, now)
        return entry

    def drop(self, name: ResourceName, uid: str) -> None:
        """The object is gone; another of its name stays."""
        entry = self._by_name.get(name)
        if entry is not None and entry.uid == uid:
            del self._by_name[name]

    def readiness(self) -> dict[str, int]:
        """How many there are, by the status of Ready."""
        found = {"True": 0, "False": 0, "Unknown": 0}
        for entry in self.all():  # a copy: metrics are read in another thread
            found[entry.ready] += 1
        return found

    def unsynced(self) -> int:
        """How many were not brought into the database yet as they stand, or could not be."""
        return sum(entry.outcome is None or isinstance(entry.outcome, Unavailable) for entry in self.all())
