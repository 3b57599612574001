"""What ``stepwell dev`` says: a line an event on stderr for people, or a JSON object a line on stdout for programs."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from stepwell_cli.console import plain, print_json, stderr

if TYPE_CHECKING:
    from stepwell.domain.errors import Problem

_STYLES = {
    "ready": "bold green",
    "applied": "green",
    "sound": "green",
    "succeeded": "green",
    "unchanged": "dim",
    "started": "cyan",
    "resumed": "cyan",
    "withdrawn": "yellow",
    "cancelled": "yellow",
    "kept": "yellow",
    "restarted": "yellow",
    "waiting": "yellow",
    "failed": "red",
    "timed out": "red",
}
_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


class Report(Protocol):
    """Where events go."""

    def event(self, word: str, subject: str, text: str = "", **fields: Any) -> None:
        """Something happened to ``subject``; ``text`` is for people, ``fields`` for programs."""

    def problem(self, problem: Problem) -> None:
        """A manifest is bad."""


class Lines:
    """``12:04:31  applied    default/welcome  revision 1, flows/welcome.yaml``."""

    def event(self, word: str, subject: str, text: str = "", **_: Any) -> None:
        """See Report."""
        from rich.text import Text

        line = Text.assemble(
            (f"{datetime.now().astimezone():%H:%M:%S}  ", "dim"), (f"{word:<9}  ", _STYLES.get(word, ""))
        )
        line.append(f"{plain(subject)}  " if subject and text else plain(subject), "bold")
        line.append(plain(text))
        line.highlight_regex(_ID, "dim")
        stderr().print(line)

    def problem(self, problem: Problem) -> None:
        """See Report. Begins with the file, as editors and terminals like it."""
        from rich.text import Text

        stderr().print(Text(plain(str(problem)), "red"))


class JsonLines:
    """The same for programs."""

    def event(self, word: str, subject: str, text: str = "", **fields: Any) -> None:
        """See Report."""
        self._print(word.replace(" ", "_"), {"subject": subject, "text": text, **fields})

    def problem(self, problem: Problem) -> None:
        """See Report."""
        self._print(
            "problem",
            {"file": problem.file, "line": problem.line, "path": problem.path, "message": problem.message},
        )

    def _print(self, word: str, fields: dict[str, Any]) -> None:
        print_json({"event": word, "time": datetime.now(UTC), **fields}, one_line=True)


def report(*, json: bool) -> Report:
    """The one that was asked for."""
    return JsonLines() if json else Lines()
