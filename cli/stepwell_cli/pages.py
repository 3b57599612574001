"""Runs on stdout, for people: a list, or one with all that is known of it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from stepwell_cli.console import compact, pages, plain
from stepwell_cli.failure import lines
from stepwell_cli.steps_table import elapsed, mark, steps_table, styled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from stepwell.adapters.postgres.history_store import RunRecord, RunState, StepRecord
    from stepwell_cli.progress import Progress


ITEMS = 20  # of a step, after which only those that failed are shown

_UID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def print_runs(runs: Sequence[RunState], *, with_namespace: bool) -> None:
    """A line a run."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("ID", "WORKFLOW", "STATUS", "TRIGGER", "CREATED", "TOOK"):
        table.add_column(name, no_wrap=True)
    for run in runs:
        workflow = f"{run.namespace}/{run.workflow}" if with_namespace else run.workflow
        took = elapsed(run.created_at, run.finished_at) if run.finished_at else ""
        table.add_row(run.id, workflow, styled(run.status), door(run.trigger), _time(run.created_at), took)
    pages().print(table)


def print_run(run: RunRecord, steps: Sequence[StepRecord], progress: Progress) -> None:
    """The run, its steps, and what each took in and gave out."""
    console = pages()
    console.print(Text.assemble((f"{run.namespace}/{run.workflow}", "bold"), "  ", run.id, "  ", styled(run.status)))
    took = f", took {elapsed(run.created_at, run.finished_at)}" if run.finished_at else ""
    console.print(f"created {_time(run.created_at)} by {door(run.trigger)}{took}\n")
    console.print(steps_table(progress))
    console.print(f"\ninput   {compact(run.input, 2000)}")
    left_out: Counter[str] = Counter()
    for step in steps:
        if step.item_index >= ITEMS and step.status == "succeeded":
            left_out[step.step] += 1
            continue
        item = f"[{step.item_index}]" if step.item_index >= 0 else ""
        console.print(Text.assemble("\n", mark(step.status), f" {step.step}{item}, attempt {step.attempt}"))
        console.print(f"  input   {compact(step.input, 2000)}")
        if step.status == "succeeded":
            console.print(f"  output  {compact(step.output, 2000)}")
        if step.error is not None:
            console.print(f"  error   {plain(str(step.error.get('reason')))}: {plain(str(step.error.get('message')))}")
    for name, count in left_out.items():
        console.print(f"\n… and {count:,} more items of {name}, which succeeded; --json lists them")
    if run.status == "succeeded":
        console.print(f"\noutput  {compact(run.output, 2000)}")
    elif run.error is not None:
        console.print("\n" + "\n".join(lines(run, steps)))


def door(trigger: str) -> str:
    """Where a run came in, for people: the uid of a WorkflowRun says little in a table (``--json`` shows it)."""
    return "WorkflowRun" if _UID.fullmatch(trigger) else trigger


def _time(moment: datetime) -> str:
    return moment.astimezone().isoformat(sep=" ", timespec="seconds")
