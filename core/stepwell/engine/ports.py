"""What the engine asks of the world: the records that it exchanges with a store, and the Protocols to implement.

Wall times are integer microseconds of the database's clock, ids are text. Every method of a Protocol raises
UnavailableError where the other side did not answer; after it, it is unknown whether the call took effect, so each can
be repeated or read back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stepwell.domain.documents import JsonObject
from stepwell.domain.states import RunStatus, StepStatus

RUN_INPUT = "$run"
"""The origin of a value that is the run's input; other origins are names of steps."""

PRIORITIES = {-1: "Low", 0: "Normal", 1: "High"}
"""Priorities by the number that is stored."""


class ClaimedRun(NamedTuple):
    """A run that this worker owns until it ends, parks or loses the fence. ``input`` is JSON text.

    ``cancelled``: it went back into the queue after its cancel was acknowledged, so nothing of it may start.
    ``continues``: it repeats another run, whose results may have been copied into its history. ``handling``: its steps are
    over, and its handlers are not, as the JSON text of a Handling.
    """

    id: str
    fence: int
    workflow_id: int
    revision_id: int
    namespace: str
    trigger: str
    input: str
    created_at: int
    wakes: int
    claims: int
    suspicion: int
    cancelled: bool = False
    continues: bool = False
    handling: str | None = None


class Handling(NamedTuple):
    """How the steps of a run ended (``outcome``, a final status, with its error), and which list of handlers has its turn since
    ``at``, until ``until``.
    """

    outcome: str
    error: JsonObject | None
    part: int
    at: int
    until: int


class RecordedAttempt(NamedTuple):
    """One attempt that is durable already. JSON values are text; ``item`` and ``items`` as in AttemptRecord."""

    run_id: str
    step: str
    attempt: int
    status: str
    output: str | None
    error: str | None
    http: str | None
    finished_at: int
    retry_at: int | None
    item: int = -1
    items: int | None = None


@dataclass(slots=True)
class AttemptRecord:
    """One attempt to be recorded. JSON values are serialised bytes; an input is either a value or a reference.

    ``item`` is the index of the item that it is of, -1 for the step itself; ``items`` is how many the step has. A success of a
    step itself with items and no output has the list of their outputs.
    """

    step: str
    attempt: int
    status: StepStatus
    started_at: int
    finished_at: int
    retry_at: int | None = None
    input_from: bytes | None = None
    input: bytes | None = None
    output: bytes | None = None
    error: bytes | None = None
    http: bytes | None = None
    item: int = -1
    items: int | None = None

    @property
    def size(self) -> int:
        """About how many bytes it adds to a flush."""
        return 200 + sum(len(d) for d in (self.input, self.output, self.error, self.http) if d)


@dataclass(slots=True)
class End:
    """How a run ends. ``output_from`` names the step whose output is the run's. ``kept``: output and error are those that were
    written with the run's outcome.
    """

    status: RunStatus
    finished_at: int
    retain: float
    output: bytes | None = None
    output_from: str | None = None
    error: bytes | None = None
    kept: bool = False


@dataclass(slots=True)
class Turn:
    """A list of handlers has its turn from ``at`` on, until ``until``. ``outcome`` is how the steps ended, None where that is
    written already.
    """

    part: int
    at: int
    until: int
    outcome: End | None


@dataclass(slots=True)
class Park:
    """The run leaves the worker: until ``due_at``, or (None) back into the queue at once. ``until`` is when the time of the
    handlers is over whose turn it is.
    """

    wakes: int
    due_at: int | None
    until: int | None = None


@dataclass(slots=True)
class FlushEntry:
    """What one run contributes to a flush: attempts, then at most one of an end, a turn and a park."""

    run_id: str
    fence: int
    attempts: Sequence[AttemptRecord] = ()
    end: End | None = None
    park: Park | None = None
    turn: Turn | None = None

    @property
    def size(self) -> int:
        """About how many bytes it adds to a flush."""
        documents = [d for a in self.attempts for d in (a.input, a.output, a.error, a.http)]
        end = self.end if self.turn is None else self.turn.outcome
        if end is not None:
            documents += [end.output, end.error]
        return 200 * (1 + len(self.attempts)) + sum(len(d) for d in documents if d)


class Kept(NamedTuple):
    """The answer for a run that was still owned. ``cancelled``: before its outcome was written, so a success was not.
    ``parked`` is the status that it left the worker with, if it did.
    """

    cancelled: bool
    wakes: int
    ended: bool
    parked: str | None


class RunStore(Protocol):
    """The run protocol (docs/architecture.md), as a worker uses it.

    Claims leave out runs of the revisions in ``unsupported``: this version of the worker cannot compile them.
    """

    unsupported: set[int]

    async def claim(self, worker: int, ids: Sequence[str], token: int) -> list[ClaimedRun]:
        """Own what is still queued among ``ids``; suspects stay where they are."""

    async def claim_oldest(self, worker: int, limit: int, token: int) -> list[ClaimedRun]:
        """Own up to ``limit`` queued runs without being told their ids, in turn over the namespaces."""

    async def claim_suspects(self, worker: int, limit: int, token: int) -> list[ClaimedRun]:
        """Own the oldest queued suspect; where it is one for the first time, up to ``limit`` of those."""

    async def claimed(self, worker: int, token: int) -> list[ClaimedRun]:
        """Read back what a claim with this token took, after its answer was lost."""

    async def attempts(self, ids: Sequence[str]) -> list[RecordedAttempt]:
        """The durable attempts of these runs, oldest first."""

    async def revision(self, revision_id: int) -> StoredRevision:
        """One revision. Raises NotFoundError."""

    async def owned(self, worker: int) -> dict[str, int]:
        """The runs that the database says this worker owns, with their fences."""

    async def hand_back(self, worker: int, runs: dict[str, int], *, begun: bool = True) -> list[str]:
        """Put owned runs (id and fence) back into the queue; returns those that were. Without ``begun`` this worker could
        not execute them: they count as not started, unless another one had done so.
        """

    async def flush(self, worker: int, entries: Sequence[FlushEntry]) -> dict[str, Kept]:
        """Write all entries in one transaction. Runs that are absent from the answer were no longer owned.

        Raises DataRefusedError where a row was refused; then nothing was written.
        """


@dataclass(frozen=True, slots=True)
class ReadyRun:
    """What the ready queue is told of a run."""

    id: str
    namespace: str
    created_ms: int
    priority: str = "Normal"


class ReadyQueue(Protocol):
    """The disposable accelerator: it holds ids only, and whatever it loses is added again."""

    async def add(self, items: Sequence[ReadyRun]) -> None:
        """Offer runs to the workers; adding twice does no harm."""

    async def take(self, n: int) -> list[str]:
        """Take up to ``n`` ids."""

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - the other side waits, not we
        """Wait for work for up to ``timeout`` seconds; whether there may be some."""


@dataclass(slots=True)
class NewRun:
    """A run to be accepted. ``input`` is serialised JSON; ``id`` is made by the caller.

    ``may_exist``: the id is deterministic, and whoever made it may have done so before. ``run_object``: the name of the
    WorkflowRun that asks for it, whose uid is ``trigger``.
    """

    id: str
    workflow_id: int
    revision_id: int
    namespace: str
    trigger: str
    input: bytes
    created_at: int
    priority: str = "Normal"
    key: str | None = None
    event_id: str | None = None
    may_exist: bool = False
    run_object: str | None = None


class Accepted(NamedTuple):
    """The run that a start led to: ``id`` is the first run's where the key was used before."""

    id: str
    repeated: bool
    input_differs: bool


class StoredRevision(NamedTuple):
    """A revision as it is stored; ``spec`` is JSON text."""

    id: int
    workflow_id: int
    namespace: str
    workflow: str
    features: list[str]
    spec: str


class ActiveWorkflow(NamedTuple):
    """A workflow and its active revision."""

    workflow_id: int
    revision_id: int
    suspended: bool


class Reaped(NamedTuple):
    """A run that a dead worker left; ``status`` is what it is now. ``poisonous``: its steps are not tried again, though its
    handlers may be due.
    """

    run: ReadyRun
    status: str
    suspect: bool
    poisonous: bool = False


class LiveCount(NamedTuple):
    """Live runs of a namespace in a status; ``oldest`` is the age in seconds of the oldest queued one that never started,
    0 without one.
    """

    namespace: str
    status: str
    runs: int
    oldest: float


class UpkeepStore(Protocol):
    """What the leader's jobs do to the database. Each is guarded, so that two leaders do no harm."""

    async def lead(self, name: str, holder: int, term: float) -> bool:
        """Take or renew a lease; whether ``holder`` has it. It falls to another after ``term`` seconds."""

    async def resign(self, name: str, holder: int) -> None:
        """Give a lease up."""

    async def wake_due(self, limit: int) -> tuple[list[ReadyRun], float | None]:
        """Wake runs whose timer is due, up to ``limit``; returns those that are queued now, and the seconds until the
        next timer is due (None where there is none).
        """

    async def counters(self) -> dict[int, int]:
        """The heartbeat counters of the workers that were not declared dead."""

    async def declare_dead(self, worker: int, counter: int) -> bool:
        """Declare a worker dead unless its counter moved; whether it is dead by this."""

    async def orphans(self) -> dict[str, int]:
        """Running runs whose worker is missing or dead, with their fences. Reads every live run."""

    async def reap(self, orphans: Mapping[str, int], deaths: int) -> list[Reaped]:
        """Take orphans back; one that killed ``deaths`` workers while it was a suspect fails."""

    async def forget_workers(self) -> None:
        """Delete rows of workers that are long dead."""

    async def queued_page(self, after: tuple[str, str], limit: int) -> tuple[list[ReadyRun], tuple[str, str] | None]:
        """Of a page of ``limit`` live runs, by namespace and id, those that have been queued for two seconds; and where
        the next page begins (None: there is none).
        """

    async def live_counts(self, after: tuple[str, str], limit: int) -> tuple[list[LiveCount], tuple[str, str] | None]:
        """What a page of ``limit`` live runs, by namespace and id, consists of; and where the next page begins."""

    async def stranded(self) -> list[str]:
        """Waiting runs that nothing would ever wake."""

    async def wake_stranded(self, ids: Sequence[str]) -> list[ReadyRun]:
        """Wake those of them that are still stranded."""

    async def add_partitions(self, days: int) -> int:
        """Make the partitions of today and the following days; how many were missing."""

    async def tomorrow_exists(self) -> bool:
        """Whether tomorrow's partitions exist."""

    async def expired_page(self, after: str, limit: int) -> tuple[list[str], str | None]:
        """The expired runs of a page of the history, and where the next page begins (None: there is none)."""

    async def delete_runs(self, ids: Sequence[str]) -> int:
        """Delete expired runs with their steps."""

    async def delete_keys(self, limit: int) -> int:
        """Delete expired idempotency keys."""

    async def past_days(self) -> list[str]:
        """The days that are over and still have partitions, as YYYYMMDD."""

    async def drop_day(self, day: str) -> bool:
        """Drop a day's partitions if no run of it is left; whether they are gone."""


class IntakeStore(Protocol):
    """How runs get in."""

    async def accept(self, runs: Sequence[NewRun], *, again: bool = False) -> dict[str, Accepted]:
        """Accept a batch in one transaction, by the runs' own ids. Absent: the workflow's active revision is another.

        ``again`` tells that an answer was lost: runs of the batch that exist are accepted as they are, whatever their
        workflow's revision is now. Without it they are refused, but for those that `may_exist`. Raises DataRefusedError
        where a row was refused.
        """

    async def active_workflows(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], ActiveWorkflow]:
        """The active revisions of workflows, by namespace and name; what does not exist is absent."""
