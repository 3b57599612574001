"""The commands of docs/runbooks.md, by alert and language, and how they are tried on a system of tests."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAGE = (Path(__file__).parents[1] / "docs" / "runbooks.md").read_text("utf-8")
WORDS = ("NAMESPACE", "WORKFLOW", "RUN", "POD", "PID")  #: what the page says to put in
_BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def sections() -> dict[str, str]:
    """The runbooks by their alert."""
    parts = re.split(r"^## (\w+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(alert: str, language: str) -> list[str]:
    """Statements of ``sql``, lines of ``sh``, whole blocks of ``promql``."""
    blocks = [text for kind, text in _BLOCK.findall(sections()[alert]) if kind == language]
    if language == "sql":
        return [each.strip() for block in blocks for each in re.split(r";$", block, flags=re.MULTILINE) if each.strip()]
    return [line.strip() for block in blocks for line in (block.splitlines() if language == "sh" else [block])]


def filled(command: str, **words: str) -> str:
    """With what the page leaves open; ``namespace="growth"`` for NAMESPACE."""
    for name, value in words.items():
        command = re.sub(rf"\b{name.upper()}\b", value, command)
    assert not re.search(rf"\b({'|'.join(WORDS)})\b", command), command
    return command


def searches() -> Iterator[tuple[str, str, str]]:
    """Each search in logs: its alert, the component whose logs these are, and what comes after ``k logs … |``."""
    for alert in sections():
        for command in commands(alert, "sh"):
            logs, _, search = command.partition(" | ")
            if logs.startswith("k logs ") and search:
                named = re.search(r"component=(\w+)|deployment/stepwell-(\w+)| POD ", logs)
                assert named, command
                yield alert, named[1] or named[2] or "worker", search


def found(search: str, logs: Iterable[Path]) -> str:
    """What a search finds in these files."""
    shell = f"cat {shlex.join(map(str, logs))} | {search}"
    return subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False).stdout
