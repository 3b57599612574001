"""The project's SQL: named queries in files, loaded once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(family: str) -> dict[str, LiteralString]:
    """The queries of ``<family>.sql`` by name."""
    text = (Path(__file__).parent / f"{family}.sql").read_text("utf-8")
    _, *parts = _NAME.split(text)
    # These files are part of the program and no value is ever formatted into them: hence LiteralString.
    return {name: cast("LiteralString", body.strip()) for name, body in zip(parts[::2], parts[1::2], strict=True)}
