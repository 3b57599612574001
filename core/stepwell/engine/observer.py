"""What the engine tells those who count and log: what happened, once it is durable. It knows nothing of their means.

Observers are called on the event loop, by the thousand a second: they return at once and raise nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stepwell.engine.ports import ClaimedRun, FlushEntry, Kept, ReadyRun, Reaped

if TYPE_CHECKING:
    from stepwell.engine.execution import Execution


class NamespaceLoad(NamedTuple):
    """The live runs of a namespace by status, and the age in seconds of the oldest one that never started."""

    runs: Mapping[str, int]
    oldest: float


class Ticked(NamedTuple):
    """A cron trigger whose ticks were decided on: by how many seconds late each run was started, and how many ticks started
    none, by reason.
    """

    namespace: str
    workflow: str
    trigger: str
    lateness: Sequence[float]
    skipped: Mapping[str, int]


class Observer(Protocol):
    """Everything but the ends of runs that no worker executes: those are cancelled or fail where they stand."""

    def begun(self, run: ClaimedRun, now: int) -> None:
        """A claimed run begins to execute."""

    def flushed(
        self, entries: Sequence[FlushEntry], kept: Mapping[str, Kept], active: Mapping[str, Execution], seconds: float
    ) -> None:
        """These entries were committed. What is absent from ``kept`` was not written: its run is another's."""

    def recovered(self, runs: Sequence[Reaped]) -> None:
        """These runs were taken back from dead workers."""

    def stranded(self, runs: Sequence[ReadyRun]) -> None:
        """These runs waited for nothing, which must never happen, and were woken."""

    def counted(self, load: Mapping[str, NamespaceLoad]) -> None:
        """The leader counted the live runs, by namespace."""

    def ticked(self, triggers: Sequence[Ticked]) -> None:
        """The leader decided on ticks of these cron triggers."""


class Silent:
    """An observer that makes nothing of it."""

    def begun(self, run: ClaimedRun, now: int) -> None:
        """See Observer."""

    def flushed(
        self, entries: Sequence[FlushEntry], kept: Mapping[str, Kept], active: Mapping[str, Execution], seconds: float
    ) -> None:
        """See Observer."""

    def recovered(self, runs: Sequence[Reaped]) -> None:
        """See Observer."""

    def stranded(self, runs: Sequence[ReadyRun]) -> None:
        """See Observer."""

    def counted(self, load: Mapping[str, NamespaceLoad]) -> None:
        """See Observer."""

    def ticked(self, triggers: Sequence[Ticked]) -> None:
        """See Observer."""


SILENT = Silent()


class Several:
    """Tells several observers."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def begun(self, run: ClaimedRun, now: int) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.begun(run, now)

    def flushed(
        self, entries: Sequence[FlushEntry], kept: Mapping[str, Kept], active: Mapping[str, Execution], seconds: float
    ) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.flushed(entries, kept, active, seconds)

    def recovered(self, runs: Sequence[Reaped]) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.recovered(runs)

    def stranded(self, runs: Sequence[ReadyRun]) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.stranded(runs)

    def counted(self, load: Mapping[str, NamespaceLoad]) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.counted(load)

    def ticked(self, triggers: Sequence[Ticked]) -> None:
        """See Observer."""
        for observer in self._observers:
            observer.ticked(triggers)
