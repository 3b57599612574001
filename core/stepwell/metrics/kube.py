"""What a process counts of its calls to the API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from stepwell.metrics.instruments import Counter, Description

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

KUBE_REQUESTS = Description(
    "stepwell_kube_requests_total", "Calls to the API server, by what was asked for and the answer.", ("kind", "code")
)


class KubeMetrics(Collector):
    """Counts calls; no label is a user's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(KUBE_REQUESTS)
        registry.register(self)

    def called(self, kind: str, code: str) -> None:
        """A call ended: with a status, ``timeout`` or ``error``."""
        self._requests.add((kind, code))

    def collect(self) -> Iterator[Metric]:
        """See Collector; may be called in another thread."""
        yield self._requests.family()
