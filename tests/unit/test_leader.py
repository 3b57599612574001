"""One worker leads: how leadership is won, lost and given up, and what its jobs outlive."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from memory_upkeep import Upkeep
from virtual_time import turns, virtual_time

from stepwell.domain.errors import ConflictError, UnavailableError
from stepwell.engine.maintenance import leader as leading
from stepwell.engine.maintenance.leader import RENEWAL, TERM, Leader


class Counting:
    """A job that counts; ``script`` holds what its runs do."""

    name = "counting"

    def __init__(self, *script: float | Exception) -> None:
        self.script = list(script)
        self.runs = 0
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    async def run(self) -> float:
        self.runs += 1
        result = self.script.pop(0) if self.script else 1.0
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader's clock is the loop's."""
    monkeypatch.setattr(leading, "time", SimpleNamespace(monotonic=lambda: 100.0 + asyncio.get_running_loop().time()))


class Office:
    """Leaders over one store."""

    def __init__(self, store: Upkeep) -> None:
        self.store: Any = store
        self.tasks: list[asyncio.Task[None]] = []

    def candidate(self, holder: int, *jobs: Counting) -> Leader:
        found = Leader(self.store, holder, jobs)
        self.tasks.append(asyncio.ensure_future(found.run()))
        return found

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results


@pytest.mark.usefixtures("virtual_clock")
@virtual_time
async def test_one_leads_and_another_takes_over_within_the_term() -> None:
    store = Upkeep()
    office = Office(store)
    jobs = [Counting(), Counting()]
    first = office.candidate(1, jobs[0])
    await turns()
    second = office.candidate(2, jobs[1])
    await asyncio.sleep(60)
    assert (first.leads, second.leads) == (True, False)
    assert (jobs[0].resets, jobs[1].runs) == (1, 0)
    office.tasks[0].cancel()
    store.holder = None  # its term is over
    await asyncio.sleep(RENEWAL * TERM + 0.6)
    assert second.leads
    assert jobs[1].resets == 1
    assert jobs[1].runs > 0
    await office.close()


@pytest.mark.usefixtures("virtual_clock")
@virtual_time
async def test_a_leader_that_cannot_renew_stops_before_its_lease_ends() -> None:
    store = Upkeep()
    office = Office(store)
    job = Counting()
    leader = office.candidate(1, job)
    await asyncio.sleep(1)
    store.down = True
    await asyncio.sleep(TERM - 1.0)
    assert not leader.leads
    runs = job.runs
    await asyncio.sleep(60)
    assert job.runs == runs
    store.down = False
    await asyncio.sleep(RENEWAL * TERM + 1)
    assert leader.leads
    assert job.resets == 2
    await office.close()


@pytest.mark.usefixtures("virtual_clock")
@virtual_time
async def test_a_slow_renewal_is_trusted_from_its_start() -> None:
    store = Upkeep()
    lead = store.lead

    async def slow(name: str, holder: int, term: float) -> bool:
        await asyncio.sleep(TERM)
        return await lead(name, holder, term)

    store.lead = slow  # type: ignore[method-assign]
    office = Office(store)
    leader = office.candidate(1)
    await asyncio.sleep(TERM + 0.1)
    assert not leader.leads
    await office.close()


@pytest.mark.usefixtures("virtual_clock")
@virtual_time
async def test_who_resigned_does_not_lead_again() -> None:
    store = Upkeep()
    office = Office(store)
    leader = office.candidate(1, job := Counting())
    await asyncio.sleep(1)
    await leader.resign()
    runs = job.runs
    await asyncio.sleep(60)
    assert not leader.leads
    assert store.holder is None
    assert job.runs == runs
    await office.close()


@pytest.mark.parametrize("error", [UnavailableError("down"), ConflictError("deadlock"), ZeroDivisionError("a defect")])
@pytest.mark.usefixtures("virtual_clock")
@virtual_time
async def test_a_job_outlives_its_errors_and_does_not_stop_the_others(error: Exception) -> None:
    office = Office(Upkeep())
    failing, other = Counting(*[error] * 10), Counting()
    office.candidate(1, failing, other)
    await asyncio.sleep(100)
    assert failing.runs > 20
    assert other.runs > 90
    await office.close()
