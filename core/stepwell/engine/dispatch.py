"""Takes runs as slots come free, claims them and executes them; the host of all executions of a process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from stepwell.domain.approval_links import ApprovalLinks
from stepwell.domain.errors import ConflictError, ManifestError, NotFoundError, StepwellError, UnavailableError
from stepwell.engine.backoff import Backoff
from stepwell.engine.clock import Clock
from stepwell.engine.execution import Execution
from stepwell.engine.journal import Journal
from stepwell.engine.observer import SILENT, Observer
from stepwell.engine.ports import ClaimedRun, FlushEntry, Kept, ReadyQueue, ReadyRun, RecordedAttempt, RunStore
from stepwell.engine.revisions import LoadedRevision, Revisions
from stepwell.engine.suspects import Suspects
from stepwell.engine.trust import Trust
from stepwell.engine.work import FRESH

IDLE_WAIT = (
    1.0  # seconds that a worker without work listens before it asks again; a silent Redis is noticed so much later
)
FALLBACK_PAUSE = 0.5  # seconds between looks into the database while Redis is away
PROBE_PAUSE = 0.5  # seconds between looks whether it is back
TRUST_PAUSE = 0.2  # seconds between looks whether this worker may claim again
OFFER_TIME = 1.0  # seconds that a drained worker takes to offer the runs that it handed back
MAX_EFFECTS = 500
MAX_BACKLOG = 1_000  # runs waiting for their flush, beyond which nothing is taken

log = logging.getLogger(__name__)

T = TypeVar("T")


class Dispatcher:
    """At most ``slots`` runs at once. A run holds its slot until it has nothing left to execute, and stays known
    (``active``) until its last flush is durable.
    """

    def __init__(
        self,
        *,
        worker: int,
        store: RunStore,
        queue: ReadyQueue,
        revisions: Revisions,
        clock: Clock,
        trust: Trust,
        slots: int,
        on_left: Callable[[Execution, Kept | None], None] | None = None,
        observer: Observer = SILENT,
        links: ApprovalLinks | None = None,
    ) -> None:
        self._worker = worker
        self._store = store
        self._queue = queue
        self._revisions = revisions
        self._clock = clock
        self._trust = trust
        self._slots = slots
        self._on_left = on_left
        self._observer = observer
        self.links = links
        self.journal = Journal(self._flush)
        self.active: dict[str, Execution] = {}
        self._busy: set[Execution] = set()
        self.suspects = Suspects(self._claim_suspects, lambda: not self.draining and trust.holds())
        self._freed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._effects = asyncio.Semaphore(MAX_EFFECTS)
        self._claiming = 0
        self._returning: asyncio.Task[None] | None = None
        self._lost_queue_at = 0.0
        self._defect: BaseException | None = None
        self._broken = asyncio.Event()
        self._requeued: list[ReadyRun] = []
        self._background: set[asyncio.Task[None]] = set()
        self.draining = False
        self.claims = 0

    @property
    def busy(self) -> int:
        """How many slots are held."""
        return len(self._busy)

    @property
    def with_queue(self) -> bool:
        """Whether runs come by way of Redis."""
        return self._returning is None or self._returning.done()

    # -- taking and claiming -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take, claim and execute until drained; cancelled to stop at once."""
        backoff = Backoff()
        try:
            while not self.draining:
                free = await self._free()
                if self.draining:
                    return
                try:
                    await self._fill(free)
                    backoff.reset()
                except StepwellError as exc:
                    log.warning("no runs could be claimed: %s", exc)
                    await backoff.pause()
        finally:
            if self._returning is not None:
                self._returning.cancel()

    async def _free(self) -> int:
        while (free := self._slots - len(self._busy)) <= 0 or self.journal.backlog > MAX_BACKLOG:
            if self.draining:
                break
            self._freed.clear()
            await self._freed.wait()
        return free

    async def _fill(self, free: int) -> None:
        if not self._trust.holds():  # the others may take us for dead, and what the dead claim becomes suspect
            await asyncio.sleep(TRUST_PAUSE)
        elif self._without_queue():
            await self._take_oldest(free)
        else:
            await self._take(free)

    async def _take(self, free: int) -> None:
        with self._unsettled():
            try:
                ids = await self._queue.take(free)
            except UnavailableError as exc:
                self._lose_queue(exc)
                return
            if ids:
                token = secrets.randbits(63)
                await self._claim(token, lambda: self._store.claim(self._worker, ids, token))
                return
        await self._listen()

    async def _listen(self) -> None:
        try:
            await self._queue.wait(IDLE_WAIT * (0.8 + 0.4 * random.random()))  # noqa: S311 - spreads load
        except UnavailableError as exc:
            self._lose_queue(exc)

    async def _take_oldest(self, free: int) -> None:
        """The way without Redis."""
        token = secrets.randbits(63)
        found = await self._claim(token, lambda: self._store.claim_oldest(self._worker, free, token))
        if not found and self._returning is not None:
            pause = FALLBACK_PAUSE * (0.5 + random.random())  # noqa: S311 - spreads load
            await asyncio.wait([self._returning], timeout=pause)

    def _without_queue(self) -> bool:
        if self._returning is not None and self._returning.done():
            log.info("Redis is back after %.1f s", time.monotonic() - self._lost_queue_at)
            self._returning = None
        return self._returning is not None

    def _lose_queue(self, why: UnavailableError) -> None:
        log.warning("%s; runs are claimed straight from PostgreSQL until Redis is back", why)
        self._lost_queue_at = time.monotonic()
        self._returning = asyncio.get_running_loop().create_task(self._until_queue_is_back())

    async def _until_queue_is_back(self) -> None:
        """Nobody else asks meanwhile: a Redis that does not answer costs each caller seconds."""
        while True:
            await asyncio.sleep(PROBE_PAUSE)
            with contextlib.suppress(UnavailableError):
                await self._queue.take(0)
                return

    async def _claim(self, token: int, claim: Callable[[], Coroutine[Any, Any, list[ClaimedRun]]]) -> int:
        """Claim and begin to execute; how many runs it were."""
        with self._unsettled():
            asked = self._clock.micros()
            runs = await self._certain(token, claim)
            await self._begin(runs, asked)
        return len(runs)

    @contextlib.contextmanager
    def _unsettled(self) -> Iterator[None]:
        """Meanwhile this worker may own runs that are not active yet."""
        self._claiming += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._claiming -= 1
            self._settle()

    def _settle(self) -> None:
        if not self.active and not self._claiming:
            self._empty.set()

    async def _certain(
        self, token: int, claim: Callable[[], Coroutine[Any, Any, list[ClaimedRun]]]
    ) -> list[ClaimedRun]:
        """Claim; if the answer is lost, read back by the token what the claim took."""
        self.claims += 1
        try:
            return await claim()
        except UnavailableError as exc:
            log.warning("the answer to a claim was lost: %s", exc)
        backoff = Backoff()
        while True:
            await backoff.pause()
            try:
                return await self._store.claimed(self._worker, token)
            except (UnavailableError, ConflictError):
                continue

    async def _begin(self, runs: Sequence[ClaimedRun], asked: int) -> None:
        history = await self._history([run.id for run in runs if run.claims > 1 or run.continues])
        for run in runs:
            loaded = await self._load(run)
            if loaded is None:
                continue
            stale = self.active.get(run.id)
            if stale is not None:  # its park is committed, but the answer was lost
                stale.flushed(None)
            execution = Execution(self, run, loaded, history.get(run.id, ()))
            self.active[run.id] = execution
            self._busy.add(execution)
            self._empty.clear()
            if run.suspicion:
                self.suspects.begun(execution)
            now = self._clock.micros()
            self._observer.begun(run, now)
            execution.advance(confirmed=now - asked <= FRESH)

    async def _history(self, ids: list[str]) -> dict[str, list[RecordedAttempt]]:
        history: dict[str, list[RecordedAttempt]] = {}
        if ids:
            for attempt in await self._patiently(lambda: self._store.attempts(ids)):
                history.setdefault(attempt.run_id, []).append(attempt)
        return history

    async def _load(self, run: ClaimedRun) -> LoadedRevision | None:
        """The run's compiled revision; None where this version of the worker cannot run it: others may."""
        try:
            return await self._patiently(lambda: self._revisions.get(run.revision_id))
        except (ManifestError, NotFoundError) as exc:
            about = {"run": run.id, "namespace": run.namespace}
            log.error("revision %d cannot run on this worker: %s", run.revision_id, exc, extra=about)  # noqa: TRY400
            self._store.unsupported.add(run.revision_id)
            await self._patiently(lambda: self._store.hand_back(self._worker, {run.id: run.fence}, begun=False))
            return None

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        backoff = Backoff()
        while True:
            try:
                return await ask()
            except (UnavailableError, ConflictError) as exc:
                log.warning("claimed runs wait: %s", exc)
                await backoff.pause()

    async def _claim_suspects(self, limit: int) -> int:
        """At least one, though every slot may be held: who waits for a slot may wait for them."""
        token = secrets.randbits(63)
        bound = max(1, min(limit, self._slots - len(self._busy)))
        return await self._claim(token, lambda: self._store.claim_suspects(self._worker, bound, token))

    # -- the host of executions ----------------------------------------------------------------------------------------

    def micros(self) -> int:
        """See Host."""
        return self._clock.micros()

    def may_act(self) -> bool:
        """See Host."""
        return self._trust.holds()

    def dirty(self, execution: Execution) -> None:
        """See Host."""
        self.journal.dirty(execution)

    def later(self, delay: float, execution: Execution) -> asyncio.TimerHandle:
        """See Host."""
        return asyncio.get_running_loop().call_later(delay, self._advance, execution)

    def _advance(self, execution: Execution) -> None:
        try:
            execution.advance()
        except BaseException as exc:  # noqa: BLE001 - a timer has nobody else to tell
            self._break(exc)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """See Host."""
        task = asyncio.get_running_loop().create_task(self._limited(work))
        self._background.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._background.discard(task)
            work.close()  # it never began where the task was cancelled before its place was free
            if not task.cancelled() and (exc := task.exception()) is not None:
                self._break(exc)

        task.add_done_callback(over)
        return task

    async def _limited(self, work: Coroutine[Any, Any, None]) -> None:
        async with self._effects:
            await work

    def _break(self, defect: BaseException) -> None:
        self._defect = defect
        self._broken.set()

    async def broken(self) -> None:
        """Raise what ended an effect's task or a timer from within: its run would stand still for ever."""
        await self._broken.wait()
        if self._defect is not None:
            raise self._defect

    def idle(self, execution: Execution) -> None:
        """See Host."""
        self._busy.discard(execution)
        self._freed.set()

    def left(self, execution: Execution, kept: Kept | None) -> None:
        """See Host."""
        run = execution.run
        if self.active.get(run.id) is execution:
            del self.active[run.id]
        self.suspects.gone(execution)
        self.journal.forget(execution)
        self.idle(execution)
        self._settle()
        if kept is not None and kept.parked == "queued":
            self._offer(ReadyRun(run.id, run.namespace, run.created_at // 1000))
        if self._on_left is not None:
            self._on_left(execution, kept)

    def _offer(self, item: ReadyRun) -> None:
        self._requeued.append(item)
        if len(self._requeued) == 1:
            task = asyncio.get_running_loop().create_task(self._offer_all())
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _offer_all(self) -> None:
        items, self._requeued = self._requeued, []
        if self._returning is not None:
            return  # the leader offers them once Redis is back
        try:
            await self._queue.add(items)
        except StepwellError as exc:
            log.warning("%d runs wait to be offered again: %s", len(items), exc)

    async def _flush(self, entries: Sequence[FlushEntry]) -> dict[str, Kept]:
        began = time.monotonic()
        kept = await self._store.flush(self._worker, entries)
        self._observer.flushed(entries, kept, self.active, time.monotonic() - began)
        self._freed.set()  # the backlog is shorter
        return kept

    # -- what the database and others say ------------------------------------------------------------------------------

    def cancel(self, ids: Sequence[str]) -> None:
        """Runs of ours whose cancel was acknowledged."""
        for run_id in ids:
            execution = self.active.get(run_id)
            if execution is not None:
                execution.cancel()

    def lost(self, ids: Sequence[str]) -> None:
        """Runs that the database says are not ours."""
        for run_id in ids:
            execution = self.active.get(run_id)
            if execution is not None:
                execution.flushed(None)

    async def drain(self, grace: float) -> None:
        """Let effects in flight end for up to ``grace`` seconds, record them, and hand every run back."""
        self.draining = True
        self._freed.set()
        for execution in list(self.active.values()):
            execution.advance()
        try:
            async with asyncio.timeout(grace):
                await self._empty.wait()
        except TimeoutError:
            await self._hand_back_all()
        if self._background:  # offers, so that the others need not look for the runs
            await asyncio.wait(self._background, timeout=OFFER_TIME)

    async def _hand_back_all(self) -> None:
        left = list(self.active.values())
        log.warning("the grace period is over; %d runs with a step in flight are handed back", len(left))
        for execution in left:
            execution.abandon()
        await self._store.hand_back(self._worker, {e.run.id: e.run.fence for e in left})
        for execution in left:
            self.left(execution, Kept(cancelled=False, wakes=0, ended=False, parked="queued"))
