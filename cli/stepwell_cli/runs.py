"""``stepwell runs``: what happened, read from the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from stepwell.adapters.postgres.history_store import Selection
from stepwell.domain.durations import parse_duration
from stepwell.domain.errors import UsageError
from stepwell.domain.manifest import DEFAULT_NAMESPACE
from stepwell.domain.states import RunStatus
from stepwell_cli.console import print_json, say
from stepwell_cli.documents import progress_document, run_document, state_document
from stepwell_cli.failure import explain
from stepwell_cli.follow import follow
from stepwell_cli.history import history
from stepwell_cli.interrupts import run_interruptible
from stepwell_cli.pages import print_run, print_runs
from stepwell_cli.progress import plan, progress
from stepwell_cli.steps_table import view

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell_cli.interrupts import Interrupts
    from stepwell_cli.progress import Progress
    from stepwell_cli.server.where import Where

FAILED = 1  # the exit code
WATCH_PERIOD = 0.25  # seconds


@dataclass(frozen=True, slots=True)
class Query:
    """What ``runs list`` was asked for."""

    workflow: str | None
    namespace: str | None
    status: str | None
    since: str | None
    limit: int
    cursor: str | None

    def selection(self) -> Selection:
        """The same as the store takes it. Raises UsageError."""
        if self.status is not None and self.status not in tuple(RunStatus):
            message = f"--status {self.status}: the words are {', '.join(RunStatus)}"
            raise UsageError(message)
        namespace = self.namespace or (DEFAULT_NAMESPACE if self.workflow else None)
        return Selection(namespace, self.workflow, self.status, _moment(self.since), self.cursor, self.limit)


def show_list(where: Where, query: Query, *, json: bool) -> None:
    """Print a page."""
    selection = query.selection()

    async def work(_: Interrupts) -> int:
        async with history(where) as found:
            page = await found.page(selection)
        if json:
            print_json({"runs": [state_document(run) for run in page.runs], "cursor": page.cursor})
            return 0
        print_runs(page.runs, with_namespace=selection.namespace is None)
        if page.cursor is not None:
            say(f"There are more: --cursor {page.cursor}")
        return 0

    run_interruptible(work)


def show_run(where: Where, run_id: str, *, json: bool) -> None:
    """Print a run with its steps."""

    async def work(_: Interrupts) -> int:
        async with history(where) as found:
            run = await found.run(run_id)
            steps = await found.steps(run_id)
            spec = await found.spec(run.revision_id)
        if json:
            print_json(run_document(run, steps))
        else:
            print_run(run, steps, progress(plan(spec), run, steps))
        return 0

    run_interruptible(work)


def watch(where: Where, run_id: str, *, json: bool) -> int:
    """Follow a run to its end; the exit code."""

    async def work(_: Interrupts) -> int:
        async with history(where) as found:
            with view(quiet=json) as shown:
                end = await follow(found, run_id, _json_lines() if json else shown.show, period=WATCH_PERIOD)
            if end.run.status == "succeeded":
                return 0
            if not json:
                explain(await found.run(run_id), await found.steps(run_id))
            return FAILED

    return run_interruptible(work)


def _json_lines() -> Callable[[Progress], None]:
    """Prints a line at each change."""
    last: Progress | None = None

    def show(current: Progress) -> None:
        nonlocal last
        if current != last:
            print_json(progress_document(current), one_line=True)
        last = current

    return show


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        message = f"--since {text}: neither a duration such as 90m nor a time such as 2026-01-31T08:00:00Z"
        raise UsageError(message) from exc
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
