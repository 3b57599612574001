"""One worker over PostgreSQL with scripted effects, and what repeats runs: for tests of `:retry` and `:rerun`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from engine_life import Trusting, World, actions_of
from memory_store import MemoryQueue
from protocol import Stage, revision, staged
from waiting import eventually

from stepwell.adapters.postgres.history_store import HistoryStore, RunRecord, StepRecord
from stepwell.adapters.postgres.rerun_store import PostgresRerunStore
from stepwell.domain.errors import StepwellError
from stepwell.engine.dispatch import Dispatcher
from stepwell.engine.intake import Intake, Start
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.reruns import Reruns
from stepwell.engine.revisions import Revisions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.domain.action import Call

NAMESPACE = "shop"


class BrokenError(StepwellError):
    """What a failing effect raises."""


@dataclass
class Repeating:
    """``failing`` names steps whose effect fails; ``calls`` are the effects as (run, step). An item of a step is ``step/2``."""

    stage: Stage
    intake: Intake
    reruns: Reruns
    history: HistoryStore
    queue: MemoryQueue
    failing: set[str] = field(default_factory=set)
    failure: Exception = field(default_factory=lambda: BrokenError("it broke"))
    calls: list[tuple[str, str]] = field(default_factory=list)
    bodies: dict[tuple[str, str], Any] = field(default_factory=dict)

    async def perform(self, call: Call, body: Any) -> Any:
        place = call.step if call.item is None else f"{call.step}/{call.item}"
        self.calls.append((call.run_id, place))
        self.bodies[call.run_id, place] = body
        if place in self.failing:
            raise self.failure
        return {"did": place}

    async def apply(self, spec: dict[str, Any], name: str, **fields: Any) -> None:
        side = await self.stage.side()
        await side.intake.apply(revision(os.urandom(8), name=name, spec=orjson.dumps(spec), **fields))

    async def finished(self, run_id: str) -> RunRecord:
        """The run once it has ended."""

        async def final() -> RunRecord | None:
            run = await self.history.run(run_id)
            return run if run.finished_at else None

        found = await eventually(final)
        assert found is not None
        return found

    async def started(self, name: str, value: dict[str, Any] | None = None) -> RunRecord:
        """A run from its start to its end."""
        accepted = await self.intake.start(Start(NAMESPACE, name, value or {"n": 1}))
        return await self.finished(accepted.id)

    async def steps(self, run_id: str) -> dict[str, StepRecord]:
        """The last attempt of each step."""
        return {record.step: record for record in await self.history.steps(run_id) if record.item_index < 0}

    def effects(self, run_id: str) -> list[str]:
        return [step for run, step in self.calls if run == run_id]


@contextlib.asynccontextmanager
async def repeating(dsn: str) -> AsyncIterator[Repeating]:
    """A worker that takes what is accepted."""
    async with staged(dsn) as stage:
        side, writer = await stage.side(), await stage.side()
        queue = MemoryQueue()
        offers = Offers(queue)
        world = World(lambda call, body: system.perform(call, body))  # noqa: PLW0108 - it is made later
        actions = actions_of(world)
        revisions = Revisions(side.runs.revision, actions)
        intake = Intake(writer.intake, revisions, offers, stage.clock)
        reruns = Reruns(PostgresRerunStore(writer.session), revisions, offers, stage.clock)
        system = Repeating(stage, intake, reruns, HistoryStore(side.session), queue)
        worker = await stage.worker()
        dispatcher = Dispatcher(
            worker=worker, store=side.runs, queue=queue, revisions=revisions, clock=stage.clock,
            trust=Trusting(), slots=10,  # type: ignore[arg-type]
        )  # fmt: skip
        tasks = [asyncio.ensure_future(work) for work in (intake.run(), dispatcher.run(), dispatcher.journal.run())]
        try:
            yield system
            broken = [task.exception() for task in tasks if task.done()]
            assert not broken, broken
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
