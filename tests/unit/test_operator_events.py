"""Events of the cluster: posted or dropped, and counted as what they were."""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

import pytest

from stepwell.adapters.kube.calls import Answer
from stepwell.domain.errors import UnavailableError
from stepwell_operator import events
from stepwell_operator.events import Events, Subject


class Counts:
    """Notes what events are counted as."""

    def __init__(self, expected: int) -> None:
        self.counted: list[str] = []
        self._expected = expected
        self.all_there = asyncio.Event()

    def event(self, result: str) -> None:
        self.counted.append(result)
        if len(self.counted) == self._expected:
            self.all_there.set()


class Calls:
    """Answers by turns, and notes what was asked."""

    def __init__(self, answers: list[int | UnavailableError]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, str]] = []

    async def ask(self, kind: str, path: str, body: dict[str, Any]) -> Answer:
        self.asked.append((path, body["message"]))
        answer = self._answers.pop(0)
        if isinstance(answer, UnavailableError):
            raise answer
        return Answer(answer, {})


async def test_what_the_api_server_says_to_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "RATE", 1_000.0)
    counts, calls = Counts(4), Calls([201, 403, UnavailableError("away"), 409])
    posting = Events(cast("Any", None), cast("Any", counts))
    posting._calls = cast("Any", calls)
    for number in range(4):
        posting.post(Subject("Workflow", "shop", "order", "uid"), "Synced", f"message {number}")
    task = asyncio.ensure_future(posting.run())
    async with asyncio.timeout(10):
        await counts.all_there.wait()
    task.cancel()
    assert counts.counted == ["posted", "dropped", "dropped", "posted"], (
        "a name that is taken is that of the event itself"
    )
    assert calls.asked == [("/api/v1/namespaces/shop/events", f"message {n}") for n in range(4)]


@pytest.mark.parametrize("name", ["a" * 253, "a" * 199 + "-b", "a" * 198 + ".-b"])
def test_a_long_name_makes_a_name_that_the_api_server_takes(name: str) -> None:
    made = events._event(Subject("WorkflowRun", "shop", name, "uid"), "Started", "message", 255, warning=False)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", made["metadata"]["name"])
    assert len(made["metadata"]["name"]) <= 253


def test_what_is_too_much_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BACKLOG", 1)
    counts = Counts(1)
    posting = Events(cast("Any", None), cast("Any", counts))
    for _ in range(2):
        posting.post(Subject("Workflow", "shop", "order", "uid"), "Synced", "message")
    assert counts.counted == ["dropped"]
