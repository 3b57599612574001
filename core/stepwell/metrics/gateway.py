"""What a gateway counts."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from stepwell.metrics import names
from stepwell.metrics.instruments import Counter, Histogram, Labels, gauge
from stepwell.version import VERSION

MAX_WORKFLOWS = 1_000  # of a process with series of their own; what comes later is counted together
OTHER = "_other"  # no name in Kubernetes begins with an underscore
UNKNOWN: Labels = ("_unknown", "_unknown")
"""The labels of a request to a webhook that does not exist: its names are the sender's."""


class GatewayMetrics(Collector):
    """Counts requests to webhooks. Only workflows that exist have series of their own."""

    def __init__(self) -> None:
        self._workflows: dict[int, Labels] = {}
        self._requests = Counter(names.WEBHOOK_REQUESTS)
        self._filtered = Counter(names.WEBHOOK_FILTERED)
        self._suspended = Counter(names.WEBHOOK_SUSPENDED)
        self._accepted = Histogram(names.WEBHOOK_ACCEPTED, names.ACCEPT_SECONDS)
        self._lag = Histogram(names.LOOP_LAG, names.LAG_SECONDS)
        self.accepted = self._accepted.at().observe
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def workflow(self, workflow_id: int, namespace: str, name: str) -> Labels:
        """The labels of a workflow that exists."""
        found = self._workflows.get(workflow_id)
        if found is None:
            if len(self._workflows) >= MAX_WORKFLOWS:
                return (OTHER, OTHER)
            found = self._workflows[workflow_id] = (namespace, name)
        return found

    def answered(self, workflow: Labels, status: int) -> None:
        """A webhook's request was answered."""
        self._requests.add((*workflow, str(status)))

    def filtered(self, workflow: Labels) -> None:
        """A delivery was turned away by the trigger's condition."""
        self._filtered.add(workflow)

    def suspended(self, workflow: Labels) -> None:
        """A delivery was answered 503, because the workflow is suspended."""
        self._suspended.add(workflow)

    def lagged(self, seconds: float) -> None:
        """The event loop was so late."""
        self._lag.at().observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """See Collector; may be called in another thread."""
        yield self._requests.family()
        yield self._filtered.family()
        yield self._suspended.family()
        yield self._accepted.family()
        yield self._lag.family()
        yield gauge(names.BUILD_INFO, [((VERSION, platform.python_version()), 1)])
