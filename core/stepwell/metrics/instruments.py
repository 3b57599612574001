"""Counters and histograms for one writer, the event loop, without locks; prometheus_client exposes them.

prometheus_client's own take a lock at every observation, so that the five of a one-step run cost more than all the rest of
observing it (docs/benchmarks.md), and show a second series of creation times unless a global switch forbids it. Reading
takes copies, so another thread may do it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

Labels = tuple[str, ...]


class Description(NamedTuple):
    """A metric's name, what it means, and the names of its labels."""

    name: str
    meaning: str
    labels: Labels = ()


class Counter:
    """Counts by the values of its labels; without labels it is shown from the start."""

    __slots__ = ("_description", "_values")

    def __init__(self, description: Description) -> None:
        self._description = description
        self._values: dict[Labels, int] = {} if description.labels else {(): 0}

    def add(self, labels: Labels = (), amount: int = 1) -> None:
        """Count."""
        self._values[labels] = self._values.get(labels, 0) + amount

    def family(self) -> CounterMetricFamily:
        """As it stands."""
        family = CounterMetricFamily(*self._description[:2], labels=self._description.labels)
        for labels, value in list(self._values.items()):
            family.add_metric(labels, value)
        return family


class Buckets:
    """The observations under one set of label values."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def cumulated(self) -> tuple[list[tuple[str, float]], float]:
        """(upper bound, how many values up to it) for each bucket, and the sum of all values."""
        counts, total = self._counts[:], 0
        shown: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, self._bounds), "+Inf"], counts, strict=True):
            total += count
            shown.append((bound, total))
        return shown, self._sum


class Histogram:
    """A distribution by the values of its labels; without labels it is shown from the start."""

    __slots__ = ("_bounds", "_children", "_description")

    def __init__(self, description: Description, bounds: Sequence[float]) -> None:
        self._description = description
        self._bounds = tuple(map(float, bounds))
        self._children: dict[Labels, Buckets] = {} if description.labels else {(): Buckets(self._bounds)}

    def at(self, *labels: str) -> Buckets:
        """The child with these label values; made at its first use."""
        found = self._children.get(labels)
        if found is None:
            found = self._children[labels] = Buckets(self._bounds)
        return found

    def family(self) -> HistogramMetricFamily:
        """As it stands."""
        name, meaning, labels = self._description
        family = HistogramMetricFamily(name, meaning, labels=labels)
        for values, child in list(self._children.items()):
            buckets, total = child.cumulated()
            family.add_metric(values, buckets, total)
        return family


def gauge(description: Description, values: Iterable[tuple[Labels, float]]) -> GaugeMetricFamily:
    """A gauge whose values are looked up when it is shown."""
    family = GaugeMetricFamily(*description[:2], labels=description.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family
