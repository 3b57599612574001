"""Questions asked together, and the active workflows that are asked for so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from stepwell.domain.errors import NotFoundError, UnavailableError
from stepwell.engine.active import ActiveWorkflows
from stepwell.engine.ports import ActiveWorkflow
from stepwell.engine.together import Together


class Source:
    """Answers when it is let go; notes what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, keys: Sequence[str]) -> dict[str, int]:
        self.calls.append(list(keys))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return {key: len(key) for key in keys if key != "absent"}


async def test_who_asks_meanwhile_shares_the_next_call() -> None:
    source = Source()
    together = Together(source)
    first = asyncio.ensure_future(together.get("a"))
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(together.get(key)) for key in ("bb", "bb", "absent", "ccc")]
    await asyncio.sleep(0)
    others[3].cancel()
    source.open.set()
    assert await first == 1
    assert await asyncio.gather(*others[:3]) == [2, 2, None]
    assert source.calls == [["a"], ["bb", "absent", "ccc"]]


@pytest.mark.parametrize("error", [UnavailableError("away"), ZeroDivisionError("a defect")])
async def test_an_error_is_told_to_all_who_asked_and_to_nobody_else(error: Exception) -> None:
    source = Source()
    source.error = error
    source.open.set()
    together = Together(source)
    answers = await asyncio.gather(together.get("a"), together.get("b"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(error)] * 2
    source.error = None
    assert await together.get("a") == 1


class Store:
    """Knows some workflows; counts how often it is asked."""

    def __init__(self) -> None:
        self.known = {("a", "b"): ActiveWorkflow(1, 2, suspended=False)}
        self.asked = 0

    async def __call__(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], ActiveWorkflow]:
        self.asked += 1
        return {name: self.known[name] for name in names if name in self.known}


async def test_workflows_and_their_absence_are_believed_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    active = ActiveWorkflows(store)
    assert [await active.find("a", "b") for _ in range(3)] == [store.known["a", "b"]] * 3
    assert [await active.find("a", "x") for _ in range(3)] == [None] * 3
    assert store.asked == 2
    with pytest.raises(NotFoundError):
        await active.get("a", "x")
    assert store.asked == 3, "who starts a run is told what is true now"
    store.known["a", "x"] = ActiveWorkflow(3, 4, suspended=False)
    assert (await active.get("a", "x")).workflow_id == 3
    assert (await active.find("a", "x")) is not None
    monkeypatch.setattr("stepwell.engine.active.FRESH", -1.0)
    store.known.clear()
    assert await active.find("a", "b") is None


async def test_a_flood_of_names_is_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.engine.active.CAPACITY", 10)
    active = ActiveWorkflows(Store())
    await asyncio.gather(*(active.find("a", str(number)) for number in range(100)))
    assert len(active._absent) == 10
