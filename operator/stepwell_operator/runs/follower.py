"""Follows every WorkflowRun to its end: looks at what is due, decides, acts, and looks again."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from stepwell.domain.errors import StepwellError
from stepwell_operator.runs.decide import Do, Track, decide, decide_blindly, track_of, wall_clock
from stepwell_operator.runs.objects import END

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stepwell.adapters.postgres.run_objects import KnownObject, RunState
    from stepwell_operator.runs.decide import Decision
    from stepwell_operator.runs.objects import RunObject

BATCH = 1_000  # objects that one look is about
TOGETHER = 32  # objects in one act
PACE = 0.05  # seconds between two looks, so that objects that come together are looked at together
AWAY = 1.0  # seconds until the database is asked again
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds after the first and after the last of many failures

log = logging.getLogger(__name__)


class Looks(Protocol):
    """The database, as it is polled. Raises UnavailableError."""

    async def states(self, ids: Sequence[str]) -> dict[str, RunState]:
        """How the runs stand that exist, by id."""

    async def started(self, uids: Sequence[str]) -> set[str]:
        """For which of these objects a run was ever accepted."""


class Acts(Protocol):
    """What decisions lead to. One that raises StepwellError is done again, after a pause that grows."""

    async def act(self, do: Do, tracks: Sequence[Track], decisions: Sequence[Decision]) -> float:
        """Carry out the same act for each; the seconds until the next look at them."""


@dataclass(slots=True)
class Follower:
    """Idle, it asks nobody. ``tracks`` are the objects that it follows, by uid."""

    looks: Looks
    acts: Acts
    monotonic: Callable[[], float] = time.monotonic
    tracks: dict[str, Track] = field(default_factory=dict)
    _due: list[tuple[float, int, str]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _acting: set[asyncio.Task[None]] = field(default_factory=set)
    _away: bool = False

    def observe(self, obj: RunObject) -> None:
        """An object is there, for the first time or changed; the same news any number of times."""
        track = self.tracks.get(obj.uid)
        if track is None:
            if obj.shown.finished and obj.ttl is None:
                return
            track = self.tracks[obj.uid] = track_of(obj, self.monotonic())
        elif track.obj is not None and obj.generation < track.obj.generation:
            return
        track.see(obj)
        self._schedule(track, 0.0)

    def lost(self, obj: RunObject | KnownObject) -> None:
        """An object is not there any more."""
        track = self.tracks.get(obj.uid)
        if track is None:
            track = Track(obj.uid, obj.namespace, obj.name, obj.run_id, None, self.monotonic())
            self.tracks[obj.uid] = track
        track.gone = True
        self._schedule(track, 0.0)

    async def run(self) -> None:
        """Follow for ever; cancelled to stop. Whatever was cut off is done again by the next operator."""
        try:
            while True:
                await self._until_due()
                await self._look()
                await asyncio.sleep(PACE)
        finally:
            acting = list(self._acting)
            for task in acting:
                task.cancel()
            await asyncio.gather(*acting, return_exceptions=True)

    # -- looking ---------------------------------------------------------------------------------------------------

    def _schedule(self, track: Track, pause: float) -> None:
        track.due = self.monotonic() + pause
        heapq.heappush(self._due, (track.due, next(self._order), track.uid))
        self._woken.set()

    async def _until_due(self) -> None:
        while not self._due or self._due[0][0] > self.monotonic():
            self._woken.clear()
            wait = self._due[0][0] - self.monotonic() if self._due else None
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                return

    def _take(self) -> list[Track]:
        """What is due now. An object that is being acted on is looked at when that is done."""
        found: list[Track] = []
        now = self.monotonic()
        while self._due and self._due[0][0] <= now and len(found) < BATCH:
            when, _, uid = heapq.heappop(self._due)
            track = self.tracks.get(uid)
            if track is None or track.due != when:
                continue
            if track.busy:
                track.touched = True
            else:
                found.append(track)
            track.due = None
        return found

    async def _look(self) -> None:
        tracks = self._take()
        asked = [track for track in tracks if track.gone or track.rank != END]
        try:
            states, started = await self._ask(asked)
        except StepwellError as exc:
            self._unavailable(exc, tracks)
            return
        if self._away and asked:
            log.info("WorkflowRuns are followed again")
            self._away = False
        now, wall = self.monotonic(), wall_clock()
        chosen: dict[tuple[Do, str], list[tuple[Track, Decision]]] = {}
        for track in tracks:
            run = states.get(track.run_id)
            if run is not None and not track.accepted:
                track.has_run()
            decision = decide(track, run, now, wall, started=track.uid in started)
            space = track.namespace if decision.do is Do.CANCEL else ""
            chosen.setdefault((decision.do, space), []).append((track, decision))
        for (do, _), together in chosen.items():
            self._choose(do, together)

    async def _ask(self, tracks: list[Track]) -> tuple[dict[str, RunState], set[str]]:
        if not tracks:
            return {}, set()
        states = await self.looks.states([track.run_id for track in tracks])
        absent = [track.uid for track in tracks if track.run_id not in states and not track.gone]
        return states, await self.looks.started(absent) if absent else set()

    def _unavailable(self, exc: StepwellError, tracks: list[Track]) -> None:
        if not self._away:
            log.warning("WorkflowRuns wait: %s", exc)
            self._away = True
        now = self.monotonic()
        decided = [(track, decide_blindly(track, AWAY, now)) for track in tracks]
        for do in (Do.LOOK, Do.SHOW):
            self._choose(do, [each for each in decided if each[1].do is do])

    # -- acting ----------------------------------------------------------------------------------------------------

    def _choose(self, do: Do, together: list[tuple[Track, Decision]]) -> None:
        if do is Do.LOOK:
            for track, decision in together:
                self._schedule(track, decision.again)
        elif do is Do.DROP:
            for track, _ in together:
                del self.tracks[track.uid]
        else:
            size = len(together) if do in {Do.CANCEL, Do.FORGET} else 1 if do is Do.START else TOGETHER
            for at in range(0, len(together), size):
                self._spawn(do, together[at : at + size])

    def _spawn(self, do: Do, together: list[tuple[Track, Decision]]) -> None:
        for track, _ in together:
            track.busy = True
        task = asyncio.get_running_loop().create_task(self._act(do, together))
        self._acting.add(task)
        task.add_done_callback(self._acting.discard)

    async def _act(self, do: Do, together: list[tuple[Track, Decision]]) -> None:
        tracks = [track for track, _ in together]
        pause = None
        try:
            pause = await self.acts.act(do, tracks, [decision for _, decision in together])
        except StepwellError as exc:
            log.info("%s of %s is tried again: %s", do.value, _named(tracks), exc)
        except Exception:
            log.exception("%s of %s failed; it is tried again; please report this", do.value, _named(tracks))
        for track in tracks:
            track.busy = False
            if do is Do.FORGET and pause is not None:
                self.tracks.pop(track.uid, None)
            else:
                self._after(track, pause)

    def _after(self, track: Track, pause: float | None) -> None:
        touched, track.touched = track.touched, False
        track.failures = track.failures + 1 if pause is None else 0
        if pause is None:
            pause = min(FIRST_PAUSE * 2 ** min(track.failures - 1, 10), LONGEST_PAUSE)
        self._schedule(track, 0.0 if touched and not track.failures else pause)


def _named(tracks: Sequence[Track]) -> str:
    others = f" and {len(tracks) - 1} others" if len(tracks) > 1 else ""
    return f"WorkflowRun {tracks[0].namespace}/{tracks[0].name}{others}"
