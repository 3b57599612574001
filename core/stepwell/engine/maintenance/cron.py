"""Fires cron triggers: decides on every tick that is due, once, and accepts the runs that they start."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from stepwell.domain.errors import DataRefusedError, ManifestError
from stepwell.domain.ticks import Decision, Timing
from stepwell.domain.trigger_plan import TriggerPlan
from stepwell.engine.clock import Clock, as_datetime, as_micros
from stepwell.engine.control import Control
from stepwell.engine.crashpoints import crashpoint
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.maintenance.schedules import ScheduleSync, identity, moments
from stepwell.engine.observer import SILENT, Observer, Ticked
from stepwell.engine.ports import ReadyRun
from stepwell.engine.revisions import LoadedRevision, Revisions
from stepwell.engine.schedules import DueSchedule, Move, ScheduleStore, Tick
from stepwell.engine.tick_runs import INVALID_INPUT, skipped, tick_of

PERIOD = 2.0  # seconds between two looks where nothing is due sooner: until then a new schedule may go unseen
SHORTEST = 0.005
PAUSED = 60_000_000  # microseconds between two looks, beyond which the leader was not there
LIMIT = 200  # schedules in one pass
BATCH = 100  # runs of one schedule in one pass
TRANSACTION = 500  # ticks
LOOK_BACK = 1_000  # earlier runs of a schedule among which live ones are looked for

FORBIDDEN = "Forbidden"
DUPLICATE = "Duplicate"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Firing:
    """What is to happen to one schedule that is due; ``live`` are runs that `Replace` cancels."""

    due: DueSchedule
    loaded: LoadedRevision
    plan: TriggerPlan
    timing: Timing
    decision: Decision
    move: Move
    ticks: list[Tick] = field(default_factory=list)
    live: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, str]:
        return self.due.workflow_id, self.due.trigger

    @property
    def policy(self) -> str:
        return "Allow" if self.plan.spec.cron is None else self.plan.spec.cron.concurrency_policy


class Cron:
    """One question every two seconds, and exactly when the next schedule is due; the clock is the database's."""

    name = "cron"

    def __init__(
        self,
        store: ScheduleStore,
        revisions: Revisions,
        offers: Offers,
        control: Control,
        clock: Clock,
        observer: Observer = SILENT,
    ) -> None:
        self._store = store
        self._revisions = revisions
        self._offers = offers
        self._control = control
        self._clock = clock
        self._observer = observer
        self._sync = ScheduleSync(store)
        self._unsupported: set[int] = set()
        self._looked: int | None = None
        self._watched = 0

    def reset(self) -> None:
        """Look at everything anew."""
        self._sync.reset()
        self._unsupported.clear()
        self._looked = None

    async def run(self) -> float:
        """See Job."""
        asked, now = time.monotonic_ns(), self._clock.micros()
        look = await self._store.look(now, LIMIT, sorted(self._unsupported))
        if self._clock.follow(look.clock, asked, time.monotonic_ns()):
            return 0.0
        self._watch(now)
        if look.changed and await self._sync.run():
            return 0.0
        if look.due:
            return 0.0 if await self._fire_all(look.due, now) else PERIOD
        if look.next_at is None:
            return PERIOD
        return min(PERIOD, max(SHORTEST, (look.next_at - self._clock.micros()) / 1e6))

    def _watch(self, now: int) -> None:
        """A look long after the one before begins anew: nobody was there in between."""
        if self._looked is None or not 0 <= now - self._looked <= PAUSED:
            self._watched = now
        self._looked = now

    async def _fire_all(self, due: Sequence[DueSchedule], now: int) -> bool:
        """Whether something was done."""
        if not await self._store.has_partition(f"{as_datetime(now):%Y%m%d}"):
            log.info("ticks wait until the partitions of this day are made")
            return False
        firings = [firing for item in due if (firing := await self._prepare(item, now))]
        await self._mind_live_runs(
            [firing for firing in firings if firing.policy != "Allow" and firing.decision.starts]
        )
        done = False
        batch: list[_Firing] = []
        for firing in firings:
            batch.append(firing)
            if sum(len(item.ticks) for item in batch) >= TRANSACTION:
                done |= await self._fire(batch, now)
                batch = []
        return await self._fire(batch, now) or done

    async def _prepare(self, due: DueSchedule, now: int, most: int = BATCH) -> _Firing | None:
        """Decide, and evaluate what starts; None where this version cannot."""
        try:
            loaded = await self._revisions.get(due.revision_id)
        except ManifestError as exc:
            log.warning("a schedule waits for a leader of a newer version: revision %d: %s", due.revision_id, exc)
            self._unsupported.add(due.revision_id)
            return None
        plan = next(plan for plan in loaded.revision.triggers if plan.name == due.trigger)
        if plan.spec.cron is None:
            return None
        await asyncio.sleep(0)  # schedules that were missed for weeks take milliseconds each
        timing = Timing(plan.spec.cron, identity(loaded.namespace, loaded.workflow, due.trigger))
        decision = timing.decide(as_datetime(due.tick_at), as_datetime(now), most, as_datetime(self._watched))
        move = Move(*due[:4], *moments(decision.next), due.live_since)
        ticks = [tick_of(loaded, plan, at, now) for at in decision.starts]
        return _Firing(due, loaded, plan, timing, decision, move, ticks)

    # -- concurrencyPolicy --------------------------------------------------------------------------------------------

    async def _mind_live_runs(self, firings: Sequence[_Firing]) -> None:
        """`Forbid` and `Replace`. No run of a trigger can start between this look and the transaction: its schedule would no
        longer stand where it was read. So what is live can only become less.
        """
        if not firings:
            return
        earlier = await self._store.started([firing.due for firing in firings], LOOK_BACK)
        live = await self._store.live([run_id for runs in earlier.values() for _, run_id in runs])
        for firing in firings:
            found = [(at, run_id) for at, run_id in earlier.get(firing.key, ()) if run_id in live]
            since = min([at for at, _ in found], default=firing.ticks[0].tick_at)
            firing.move = firing.move._replace(live_since=since)
            if found and firing.policy == "Forbid":
                firing.ticks = [_forbidden(tick, found[0][1]) for tick in firing.ticks]
            elif firing.ticks[0].run is not None:
                firing.live = [run_id for _, run_id in found]
        await self._cancel(firings)

    async def _cancel(self, firings: Sequence[_Firing]) -> None:
        """Before the start: a crash in between leaves the tick to be fired again."""
        by_namespace: dict[str, list[str]] = {}
        for firing in firings:
            if firing.live:
                by_namespace.setdefault(firing.loaded.namespace, []).extend(firing.live)
        for namespace, ids in by_namespace.items():
            await self._control.cancel(namespace, ids)

    # -- the transaction ----------------------------------------------------------------------------------------------

    async def _fire(self, firings: Sequence[_Firing], now: int) -> bool:
        """Write one batch; whether a schedule moved."""
        if not firings:
            return False
        crashpoint("before_ticks")
        try:
            fired = await self._store.fire(now, [f.move for f in firings], [t for f in firings for t in f.ticks])
        except DataRefusedError as exc:
            return await self._apart(firings, now, exc)
        crashpoint("after_ticks_before_offer")
        moved = [firing for firing in firings if firing.key in fired.moved]
        self._tell(moved, fired.started, now)
        await self._offers.add(
            [
                ReadyRun(run.id, run.namespace, run.created_at // 1000, run.priority)
                for firing in moved
                for tick in firing.ticks
                if (run := tick.run) and (*firing.key, tick.tick_at) in fired.started
            ]
        )
        return bool(moved)

    async def _apart(self, firings: Sequence[_Firing], now: int, refusal: DataRefusedError) -> bool:
        """One schedule's refused input must not hold up the others: halve, then tick by tick, then skip the one."""
        if len(firings) > 1:
            middle = len(firings) // 2
            first = await self._fire(firings[:middle], now)
            return await self._fire(firings[middle:], now) or first
        (firing,) = firings
        if len(firing.ticks) > 1:
            single = await self._prepare(firing.due, now, most=1)
            return single is not None and await self._fire([single], now)
        tick = firing.ticks[0] if firing.ticks else None
        if tick is None or tick.run is None:
            raise refusal
        at = as_datetime(tick.tick_at)
        firing.ticks = [skipped(firing.loaded, firing.plan, at, INVALID_INPUT, str(refusal))]
        return await self._fire([firing], now)

    def _tell(self, firings: Sequence[_Firing], started: set[tuple[int, str, int]], now: int) -> None:
        told = [_ticked(firing, started, now) for firing in firings]
        self._observer.ticked(told)
        skips = [ticked for ticked in told if ticked.skipped]
        if skips:
            counts = sum((Counter(ticked.skipped) for ticked in skips), Counter[str]())
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
            one = skips[0]
            log.info("ticks that start no run: %s; %s/%s, %s", reasons, one.namespace, one.workflow, one.trigger)


def _ticked(firing: _Firing, started: set[tuple[int, str, int]], now: int) -> Ticked:
    skips = Counter(firing.decision.skipped)
    lateness = []
    for tick in firing.ticks:
        if (*firing.key, tick.tick_at) in started and tick.run is not None:
            due = firing.timing.waiting(as_datetime(tick.tick_at)).due
            lateness.append((now - as_micros(due)) / 1e6)
        else:
            skips[tick.reason or DUPLICATE] += 1
    return Ticked(firing.loaded.namespace, firing.loaded.workflow, firing.plan.name, lateness, skips)


def _forbidden(tick: Tick, run_id: str) -> Tick:
    if tick.run is None:
        return tick
    return Tick(tick.workflow_id, tick.trigger, tick.tick_at, None, FORBIDDEN, f"run {run_id} goes on")
