"""What the manifests ask of the database: a pure decision, made anew at every look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from stepwell.domain.compile import revision_hash
from stepwell.domain.spec import Workflow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from stepwell.domain.manifest import Document

GRACE = 1.0  # seconds that a workflow is missed before it is withdrawn: its file may be about to come back


class Identity(NamedTuple):
    """A workflow's name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A workflow as its manifest has it."""

    document: Document
    workflow: Workflow
    hash: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """``held``: would be withdrawn, but a manifest is bad, and may be the one that holds it now."""

    apply: tuple[Wanted, ...] = ()
    withdraw: tuple[Identity, ...] = ()
    held: tuple[Identity, ...] = ()
    waiting: bool = False


def wanted(documents: Iterable[Document]) -> dict[Identity, Wanted]:
    """The workflows among documents."""
    return {
        Identity(document.namespace, document.name): Wanted(
            document, document.model, revision_hash(document.model.spec)
        )
        for document in documents
        if isinstance(document.model, Workflow)
    }


@dataclass(slots=True)
class Planner:
    """Remembers since when a workflow is missed. ``now`` is in seconds of any clock that only goes on."""

    _missed: dict[Identity, float] = field(default_factory=dict)

    def plan(
        self, asked: Mapping[Identity, Wanted], active: Mapping[Identity, bytes], bad: Collection[str], now: float
    ) -> Plan:
        """``active`` are the workflows that stand in the database, with the hash of their revision."""
        apply = tuple(item for name, item in sorted(asked.items(), key=_place) if active.get(name) != item.hash)
        self._missed = {name: self._missed.get(name, now) for name in sorted(active.keys() - asked.keys())}
        over = tuple(name for name, since in self._missed.items() if now - since >= GRACE)
        waiting = len(over) < len(self._missed)
        return Plan(apply, (), over, waiting=waiting) if bad else Plan(apply, over, (), waiting=waiting)


def _place(entry: tuple[Identity, Wanted]) -> tuple[str, int]:
    document = entry[1].document
    return document.file, document.line
