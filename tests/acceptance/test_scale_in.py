"""An autoscaler takes workers away under load: nothing is lost, and no durable step runs again."""

from __future__ import annotations

import signal

import drills
from waiting import eventually


async def test_half_of_the_workers_leave_in_turn_under_load(database: str, redis_url: str) -> None:
    """What Kubernetes does to a pod: SIGTERM, and then nothing within the grace period."""
    async with drills.drill(database, redis_url) as system:
        workers = [await system.worker() for _ in range(4)]
        async with system.load("order", batch=5):
            for leaving in workers[:2]:  # the first one leads
                seen = len(system.receiver.effects)
                await eventually(lambda seen=seen: len(system.receiver.effects) > seen + 20, 30)  # type: ignore[misc]
                await system.struck("scale-in")
                leaving.signal(signal.SIGTERM)
                assert await leaving.ended() == 0, leaving.text()
            seen = len(system.receiver.effects)
            await eventually(lambda: len(system.receiver.effects) > seen + 20, 30)
        await system.over()
        assert system.repeated == set()
        dead = await system.rows("SELECT count(*) FROM runs WHERE suspicion > 0")
        assert dead == [(0,)], "who leaves in order is not taken for dead"
