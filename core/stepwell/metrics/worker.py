"""What a worker counts, as an observer of the engine."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from stepwell.engine.observer import NamespaceLoad, Ticked
from stepwell.engine.ports import AttemptRecord, ClaimedRun, End, FlushEntry, Kept, ReadyRun, Reaped
from stepwell.engine.revisions import LoadedRevision
from stepwell.metrics import names
from stepwell.metrics.instruments import Counter, Histogram, Labels, gauge
from stepwell.version import VERSION

if TYPE_CHECKING:
    from stepwell.engine.execution import Execution

MAX_WORKFLOWS = 1_000  # of a process with series of their own; what comes later is counted together
MAX_NAMESPACES = 1_000  # likewise, of the leader
OTHER = "_other"  # no name in Kubernetes begins with an underscore

_STATUSES = ("queued", "running", "waiting")


class Reading(NamedTuple):
    """A worker at this moment."""

    slots: int
    busy: int
    backlog: int
    leads: bool
    redis: bool
    trusted: bool


class WorkerMetrics(Collector):
    """Counts what it observes; ``look`` gives the gauges of the worker (None: there is none right now)."""

    def __init__(self, look: Callable[[], Reading | None]) -> None:
        self._look = look
        self._workflows: dict[int, Labels] = {}
        self._load: dict[str, NamespaceLoad] = {}
        self._scheduled: set[Labels] = set()
        self._runs = Counter(names.RUNS)
        self._steps = Counter(names.STEPS)
        self._recoveries = Counter(names.RECOVERIES)
        self._poison_pills = Counter(names.POISON_PILLS)
        self._stranded = Counter(names.STRANDED)
        self._skipped = Counter(names.SCHEDULE_SKIPPED)
        self._lateness = Histogram(names.SCHEDULE_LATENESS, names.LATE_SECONDS)
        self._run_duration = Histogram(names.RUN_DURATION, names.RUN_SECONDS)
        self._step_duration = Histogram(names.STEP_DURATION, names.STEP_SECONDS)
        self._to_start = Histogram(names.TRIGGER_TO_START, names.START_SECONDS)
        self._flush = Histogram(names.JOURNAL_FLUSH, names.FLUSH_SECONDS)
        self._batch = Histogram(names.JOURNAL_BATCH, names.BATCH_ROWS)
        self._lag = Histogram(names.LOOP_LAG, names.LAG_SECONDS)
        self._started = self._to_start.at().observe
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    # -- what the engine tells ---------------------------------------------------------------------------------------

    def begun(self, run: ClaimedRun, now: int) -> None:
        """See Observer."""
        if run.claims == 1:
            self._started((now - run.created_at) / 1e6)

    def flushed(
        self, entries: Sequence[FlushEntry], kept: Mapping[str, Kept], active: Mapping[str, Execution], seconds: float
    ) -> None:
        """See Observer."""
        self._flush.at().observe(seconds)
        self._batch.at().observe(len(entries))
        for entry in entries:
            answer, execution = kept.get(entry.run_id), active.get(entry.run_id)
            if answer is None or execution is None:
                continue
            loaded = execution.loaded
            workflow = self._workflows.get(loaded.workflow_id) or self._admit(loaded)
            for attempt in entry.attempts:
                if (
                    attempt.item >= 0 or attempt.items is None
                ):  # else it only sums up items, which were counted themselves
                    self._count_step(workflow, loaded.steps[attempt.step].kind, attempt)
            if entry.end is not None and answer.ended:
                self._count_run(workflow, entry.end, execution.run)

    def recovered(self, runs: Sequence[Reaped]) -> None:
        """See Observer."""
        self._recoveries.add(amount=len(runs))
        self._poison_pills.add(amount=sum(item.poisonous for item in runs))

    def stranded(self, runs: Sequence[ReadyRun]) -> None:
        """See Observer."""
        self._stranded.add(amount=len(runs))

    def counted(self, load: Mapping[str, NamespaceLoad]) -> None:
        """See Observer. A namespace that was shown goes on being shown, as empty."""
        shown = dict.fromkeys(self._load, NamespaceLoad({}, 0.0))
        for namespace, found in load.items():
            if namespace in shown or len(shown) < MAX_NAMESPACES:
                shown[namespace] = found
            else:
                shown[OTHER] = _together(shown.get(OTHER), found)
        self._load = shown

    def ticked(self, triggers: Sequence[Ticked]) -> None:
        """See Observer."""
        for ticked in triggers:
            for seconds in ticked.lateness:
                self._lateness.at().observe(seconds)
            if not ticked.skipped:
                continue
            workflow = (ticked.namespace, ticked.workflow)
            if workflow not in self._scheduled and len(self._scheduled) >= MAX_WORKFLOWS:
                workflow = (OTHER, OTHER)
            self._scheduled.add(workflow)
            for reason, count in ticked.skipped.items():
                self._skipped.add((*workflow, reason), count)

    def lagged(self, seconds: float) -> None:
        """The event loop was so late."""
        self._lag.at().observe(seconds)

    def _admit(self, loaded: LoadedRevision) -> Labels:
        if len(self._workflows) >= MAX_WORKFLOWS:
            return (OTHER, OTHER)
        labels = self._workflows[loaded.workflow_id] = (loaded.namespace, loaded.workflow)
        return labels

    def _count_step(self, workflow: Labels, action: str, attempt: AttemptRecord) -> None:
        status = attempt.status.value if attempt.retry_at is None else "retried"
        self._steps.add((*workflow, action, status))
        if status != "skipped":
            self._step_duration.at(action).observe((attempt.finished_at - attempt.started_at) / 1e6)

    def _count_run(self, workflow: Labels, end: End, run: ClaimedRun) -> None:
        status = end.status.value
        self._runs.add((*workflow, status))
        self._run_duration.at(status).observe((end.finished_at - run.created_at) / 1e6)

    # -- what Prometheus sees ----------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """See Collector; may be called in another thread."""
        for counter in (
            self._runs, self._steps, self._recoveries, self._poison_pills, self._stranded, self._skipped
        ):  # fmt: skip
            yield counter.family()
        for histogram in (
            self._run_duration, self._step_duration, self._to_start, self._flush, self._batch, self._lag, self._lateness
        ):  # fmt: skip
            yield histogram.family()
        yield gauge(names.BUILD_INFO, [((VERSION, platform.python_version()), 1)])
        reading = self._look()
        yield from _gauges(reading)
        yield from self._queue(reading)

    def _queue(self, reading: Reading | None) -> Iterator[Metric]:
        """Only of the leader: what a former one counted is old."""
        load = self._load if reading is not None and reading.leads else {}
        depth = [((ns, status), float(found.runs.get(status, 0))) for ns, found in load.items() for status in _STATUSES]
        yield gauge(names.QUEUE_DEPTH, depth)
        yield gauge(names.QUEUE_OLDEST, [((ns,), found.oldest) for ns, found in load.items()])


def _gauges(reading: Reading | None) -> Iterator[Metric]:
    found = reading or Reading(0, 0, 0, leads=False, redis=False, trusted=False)
    for description, value in (
        (names.SLOTS, found.slots),
        (names.SLOTS_BUSY, found.busy),
        (names.JOURNAL_BACKLOG, found.backlog),
        (names.LEADER, found.leads),
        (names.REDIS_AVAILABLE, found.redis),
        (names.HEARTBEAT_TRUSTED, found.trusted),
    ):
        yield gauge(description, [((), float(value))])


def _together(one: NamespaceLoad | None, other: NamespaceLoad) -> NamespaceLoad:
    if one is None:
        return other
    runs = {status: one.runs.get(status, 0) + other.runs.get(status, 0) for status in _STATUSES}
    return NamespaceLoad(runs, max(one.oldest, other.oldest))
