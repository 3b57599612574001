"""What a process counts of its calls to the API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from stepwell.metrics import names
from stepwell.metrics.instruments import Counter

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric


class KubeMetrics(Collector):
    """Counts calls; no label is a user's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(names.KUBE_REQUESTS)
        registry.register(self)

    def called(self, kind: str, code: str) -> None:
        """A call ended: with a status, ``timeout`` or ``error``."""
        self._requests.add((kind, code))

    def collect(self) -> Iterator[Metric]:
        """See Collector; may be called in another thread."""
        yield self._requests.family()
