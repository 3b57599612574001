"""What being observed costs: ``python tests/bench/metrics.py``. CPU of one run, by process time; and of a scrape."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine_life import load

from stepwell.actions.registry import default_actions
from stepwell.domain.states import RunStatus, StepStatus
from stepwell.engine.observer import SILENT, Several
from stepwell.engine.ports import AttemptRecord, ClaimedRun, End, FlushEntry, Kept
from stepwell.metrics import names
from stepwell.metrics.worker import WorkerMetrics
from stepwell.run_log import RunLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.engine.observer import Observer

BATCH = 500  # runs a flush
FLUSHES = 100
ROUNDS = 7
CREATED = 1_700_000_000_000_000


class Executed:
    """What an observer reads of an execution."""

    def __init__(self, run: ClaimedRun, loaded: Any) -> None:
        self.run = run
        self.loaded = loaded


def batch(steps: int) -> tuple[list[FlushEntry], dict[str, Kept], dict[str, Any], list[ClaimedRun]]:
    """A flush of runs that ended with so many steps each."""
    spec = {"steps": [{"name": f"s{n}", "transform": {"value": 1}} for n in range(steps)]}
    loaded = load(spec, default_actions())
    entries, active, runs = [], {}, []
    for n in range(BATCH):
        run = ClaimedRun(f"r{n}", n, 1, 1, "default", "api", "{}", CREATED, 0, 1, 0)
        attempts = [
            AttemptRecord(f"s{step}", 1, StepStatus.SUCCEEDED, CREATED + 9_000, CREATED + 9_040)
            for step in range(steps)
        ]
        entries.append(FlushEntry(run.id, n, attempts, End(RunStatus.SUCCEEDED, CREATED + 12_000, 3600)))
        active[run.id] = Executed(run, loaded)
        runs.append(run)
    kept = dict.fromkeys(active, Kept(cancelled=False, wakes=0, ended=True, parked=None))
    return entries, kept, active, runs


def cost(observer: Observer, steps: int) -> float:
    """Microseconds of CPU a run."""
    entries, kept, active, runs = batch(steps)

    def once() -> None:
        for run in runs:
            observer.begun(run, CREATED + 5_000)
        observer.flushed(entries, kept, active, 0.02)

    return best(once, FLUSHES) / BATCH


def best(what: Callable[[], object], times: int) -> float:
    """Microseconds of CPU a call, in the best of some rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            what()
        found.append((time.process_time() - began) / times * 1e6)
    return min(found)


def library(steps: int) -> float:
    """The same observations with prometheus_client's own instruments, their children at hand."""
    registry = CollectorRegistry()
    counters = [Counter(f"c{n}", "What.", ["a"], registry=registry).labels("a") for n in range(1 + steps)]
    histograms = [
        Histogram(f"h{n}", "What.", ["a"], registry=registry, buckets=names.RUN_SECONDS).labels("a")
        for n in range(2 + steps)
    ]

    def once() -> None:
        for counter in counters:
            counter.inc()
        for histogram in histograms:
            histogram.observe(0.012)

    return best(once, 20_000)


def scrape(workflows: int) -> tuple[float, int]:
    """Milliseconds and bytes of a scrape after runs of so many workflows."""
    metrics = WorkerMetrics(lambda: None)
    entries, kept, active, _ = batch(1)
    for number in range(workflows):
        loaded = next(iter(active.values())).loaded
        renamed = type(loaded)(number, number, "default", f"workflow-{number}", loaded.revision, loaded.steps)
        executed: Any = Executed(active["r0"].run, renamed)
        metrics.flushed(entries[:1], kept, {"r0": executed}, 0.02)
    return best(lambda: generate_latest(metrics.registry), 3) / 1000, len(generate_latest(metrics.registry))


def main() -> None:
    for steps in (1, 3):
        silent = cost(SILENT, steps)
        print(f"{steps} steps: no observer {silent:6.2f} µs a run")
        print(f"{steps} steps: metrics     {cost(WorkerMetrics(lambda: None), steps) - silent:6.2f} µs a run more")
        both = Several(WorkerMetrics(lambda: None), RunLog())
        print(f"{steps} steps: metrics, log{cost(both, steps) - silent:6.2f} µs a run more")
        print(f"{steps} steps: the library {library(steps):6.2f} µs, its observations alone")
    for workflows in (10, 1_000):
        took, size = scrape(workflows)
        print(f"a scrape with {workflows} workflows: {took:.1f} ms, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
