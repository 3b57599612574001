"""The two questions that everybody asks the database first, with their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

from rich.box import ASCII2, SQUARE
from rich.table import Table

from stepwell_cli.console import compact, pages, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.box import Box
    from rich.console import Console

    from stepwell.adapters.postgres.session import Session

_QUESTIONS: tuple[tuple[LiteralString, LiteralString, tuple[str, ...]], ...] = (
    ("SELECT id, status FROM workflow_runs", " WHERE id = %(run)s", ("id", "status")),
    ("SELECT input_data, output_data FROM step_runs", " WHERE run_id = %(run)s", ("input_data", "output_data")),
)
_ENDLESS = 10_000  # columns


async def show_tables(session: Session, run_id: str | None) -> None:
    """Print both on stderr: of all runs, or of one, in a database that others use as well."""
    console = pages(error=True)
    box = SQUARE if console.encoding.lower().startswith("utf") else ASCII2
    if not console.is_terminal:  # lines stand above it, and no table with an empty one below
        console.print()
    for query, one, columns in _QUESTIONS:
        rows = await session.execute(query + (one if run_id else ""), {"run": run_id} if run_id else None)
        condition = one.replace("%(run)s", f"'{run_id}'") if run_id else ""
        cells = [list(map(_cell, row)) for row in rows]
        console.print(f"{query}{condition};")
        console.print(fitting(console, columns, cells, box))
        console.print()


def fitting(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], box: Box) -> Table:
    """A table with a frame, or without one where its cells would be folded: the room for it may be what is missing."""
    framed = _table(columns, rows, box)
    wanted = console.measure(framed, options=console.options.update(max_width=_ENDLESS)).maximum
    return framed if wanted <= console.width else _table(columns, rows, None)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], box: Box | None) -> Table:
    padding = (0, 1) if box else (0, 2, 0, 0)
    table = Table(box=box, header_style="bold", padding=padding, pad_edge=box is not None)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    return compact(value) if isinstance(value, dict | list) else plain(str(value))
