"""The tables that `stepwell run --tables` shows, in terminals of any width."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.box import SQUARE
from rich.console import Console

from stepwell_cli.tables import fitting

COLUMNS = ("input_data", "output_data")
#: What the sample leaves.
ROWS = (
    ('{"email":"user@example.com","age":20}', '{"email":"user@example.com"}'),
    ('{"email":"user@example.com"}', '{"received":{"email":"user@example.com"}}'),
)


def shown(width: int) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(fitting(console, COLUMNS, ROWS, SQUARE))
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "framed"), [(120, True), (85, True), (84, False), (80, False)])
def test_the_sample_is_not_folded_where_it_fits(width: int, framed: bool) -> None:
    lines = shown(width).splitlines()
    assert ("│" in lines[1]) is framed
    assert all(any(all(cell in line for cell in row) for line in lines) for row in ROWS)


def test_what_cannot_fit_is_folded_and_nothing_is_lost() -> None:
    letters = "".join(shown(40).split())
    assert all(letters.count(letter) == "".join([*COLUMNS, *ROWS[0], *ROWS[1]]).count(letter) for letter in "{}:@")
