"""What `stepwell dev` says of runs: a line each, sums where there are many."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import orjson

from stepwell.domain.states import RunStatus
from stepwell.engine.ports import ClaimedRun, End, FlushEntry, Kept
from stepwell_cli.dev.feed import FAILURES, SINGLY, Feed
from stepwell_cli.dev.report import JsonLines, Lines

if TYPE_CHECKING:
    import pytest

    from stepwell.domain.errors import Problem

FIELDS = {"workflow_id": 7, "created_at": 0, "claims": 1, "id": "r"}
ENDED = Kept(cancelled=False, wakes=0, ended=True, parked=None)


class Recorded:
    """A report that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def event(self, word: str, subject: str, text: str = "", **_: Any) -> None:
        self.lines.append(f"{word} {subject} {text}")

    def problem(self, problem: Problem) -> None:
        raise AssertionError(problem)


class Names:
    """Stands for the store."""

    asked = 0

    async def name(self, number: int) -> str:
        self.asked += 1
        return f"default/w{number}"


def claimed(**changes: Any) -> ClaimedRun:
    values = dict.fromkeys(ClaimedRun._fields, 0) | FIELDS | changes
    return ClaimedRun(**values)  # type: ignore[arg-type]


def ended(feed: Feed, run: ClaimedRun, status: RunStatus, error: dict[str, str] | None = None) -> None:
    end = End(status, 31_000, 1.0, error=orjson.dumps(error) if error else None)
    loaded = SimpleNamespace(namespace="default", workflow="w7")
    active: Any = {run.id: SimpleNamespace(run=run, loaded=loaded)}
    feed.flushed([FlushEntry(run.id, 1, end=end)], {run.id: ENDED}, active, 0.0)


async def told(feed: Feed, report: Recorded) -> list[str]:
    store: Any = Names()
    await feed.tell(store)
    assert store.asked <= 1
    lines, report.lines = report.lines, []
    return lines


async def test_a_run_starts_and_ends() -> None:
    report = Recorded()
    feed = Feed(report)
    run = claimed()
    feed.begun(run, 0)
    assert feed.live == {"r"}
    ended(feed, run, RunStatus.SUCCEEDED)
    assert not feed.live
    assert await told(feed, report) == ["started default/w7 r", "succeeded default/w7 r  in 31 ms"]


async def test_a_failure_names_its_step() -> None:
    report = Recorded()
    feed = Feed(report)
    ended(feed, claimed(), RunStatus.FAILED, {"step": "notify", "reason": "Status", "message": "answered\n500"})
    assert await told(feed, report) == ["failed default/w7 r  after 31 ms at step notify: answered 500"]


async def test_a_run_that_was_parked_is_no_news_one_of_an_earlier_life_is() -> None:
    report = Recorded()
    feed = Feed(report)
    feed.begun(claimed(claims=3), 0)
    feed.begun(claimed(claims=4), 0)
    assert await told(feed, report) == ["resumed default/w7 r"]
    feed.flushed([FlushEntry("r", 1)], {}, {}, 0.0)  # fenced: another took it
    feed.begun(claimed(claims=5), 0)
    assert await told(feed, report) == ["resumed default/w7 r"]


def test_a_run_that_waits_holds_up_no_end() -> None:
    feed = Feed(Recorded())
    feed.begun(claimed(), 0)
    feed.flushed([FlushEntry("r", 1)], {"r": ENDED._replace(ended=False, parked="waiting")}, {}, 0.0)
    assert feed.live == feed.parked == {"r"}
    feed.begun(claimed(claims=2), 0)
    assert (feed.live, feed.parked) == ({"r"}, set())


async def test_many_are_summed_up_but_for_some_failures() -> None:
    report = Recorded()
    feed = Feed(report)
    runs = [claimed(id=f"r{n}") for n in range(SINGLY + 1)]
    for n, run in enumerate(runs):
        feed.begun(run, 0)
        ended(feed, run, RunStatus.FAILED if n < FAILURES + 2 else RunStatus.SUCCEEDED)
    lines = await told(feed, report)
    assert lines[:3] == ["started default/w7 21 runs", "failed default/w7 2 runs", "succeeded default/w7 14 runs"]
    assert lines[3:] == [f"failed default/w7 r{n}  after 31 ms" for n in range(FAILURES)]


def test_a_line_holds_no_control_characters_and_no_colours_without_a_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Lines().event("failed", "default/x", "\x1b[31mred [bold]x[/]")
    assert capfd.readouterr().err[8:] == "  failed     default/x  �[31mred [bold]x[/]\n"


def test_a_line_of_json(capfd: pytest.CaptureFixture[str]) -> None:
    JsonLines().event("timed out", "default/x", "after 3 s", run="r")
    line = orjson.loads(capfd.readouterr().out)
    assert line | {"time": ""} == {
        "event": "timed_out",
        "time": "",
        "subject": "default/x",
        "text": "after 3 s",
        "run": "r",
    }
