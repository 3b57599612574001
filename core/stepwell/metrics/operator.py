"""What an operator counts."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from stepwell.metrics import names
from stepwell.metrics.instruments import Counter, Histogram, gauge
from stepwell.version import VERSION


class OperatorMetrics(Collector):
    """Counts; no label comes from users. ``look`` gives the number of Workflows by the status of their Ready, ``unsynced`` of
    those that are not in the database as they stand.
    """

    def __init__(self) -> None:
        self.look: Callable[[], Mapping[str, int]] = dict
        self.unsynced: Callable[[], int] = int
        self._events = Counter(names.OPERATOR_EVENTS)
        self._writes = Counter(names.OPERATOR_STATUS_WRITES)
        self._swept = Counter(names.OPERATOR_SWEPT)
        self._sync = Histogram(names.OPERATOR_SYNC, names.SYNC_SECONDS)
        self._lag = Histogram(names.LOOP_LAG, names.LAG_SECONDS)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def event(self, result: str) -> None:
        """An Event was ``posted`` or ``dropped``."""
        self._events.add((result,))

    def status_write(self, kind: str, result: str) -> None:
        """The status of a ``Workflow`` or ``WorkflowRun`` was ``written``, or that ``failed``."""
        self._writes.add((kind, result))

    def swept(self, found: str) -> None:
        """A sweep found a ``missed_delete`` or a ``missed_change``."""
        self._swept.add((found,))

    def synced(self, seconds: float) -> None:
        """A Workflow was synced so long after it was seen."""
        self._sync.at().observe(seconds)

    def lagged(self, seconds: float) -> None:
        """The event loop was so late."""
        self._lag.at().observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """See Collector; may be called in another thread."""
        yield self._events.family()
        yield self._writes.family()
        yield self._swept.family()
        yield self._sync.family()
        yield self._lag.family()
        yield gauge(names.OPERATOR_WORKFLOWS, [((ready,), float(count)) for ready, count in self.look().items()])
        yield gauge(names.OPERATOR_UNSYNCED, [((), float(self.unsynced()))])
        yield gauge(names.BUILD_INFO, [((VERSION, platform.python_version()), 1)])
