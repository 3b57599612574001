"""The count of the live runs: page by page, told at the end of a walk, begun anew by a new leader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.engine.maintenance.gauges import PAUSE, PERIOD, START, QueueGauges
from stepwell.engine.observer import NamespaceLoad, Silent
from stepwell.engine.ports import LiveCount

PAGES = {
    START: ([LiveCount("a", "queued", 2, 7.0), LiveCount("a", "waiting", 1, 0.0)], ("a", "3")),
    ("a", "3"): ([LiveCount("a", "queued", 4, 3.0), LiveCount("b", "running", 1, 0.0)], None),
}


class Store:
    """Gives `PAGES`."""

    async def live_counts(self, after: tuple[str, str], limit: int) -> Any:
        return PAGES[after]


class Told(Silent):
    """Notes what was counted."""

    def __init__(self) -> None:
        self.loads: list[Mapping[str, NamespaceLoad]] = []

    def counted(self, load: Mapping[str, NamespaceLoad]) -> None:
        self.loads.append(load)


WHOLE = {"a": NamespaceLoad({"queued": 6, "waiting": 1}, 7.0), "b": NamespaceLoad({"running": 1}, 0.0)}


async def test_a_walk_is_told_once_and_whole() -> None:
    told = Told()
    job = QueueGauges(Store(), told)  # type: ignore[arg-type]
    for walks in 1, 2:
        assert await job.run() == PAUSE
        assert len(told.loads) == walks - 1
        assert await job.run() == PERIOD
        assert told.loads == [WHOLE] * walks


async def test_a_new_leader_begins_with_the_first_page() -> None:
    told = Told()
    job = QueueGauges(Store(), told)  # type: ignore[arg-type]
    await job.run()
    job.reset()
    await job.run()
    await job.run()
    assert told.loads == [WHOLE]
