"""``stepwell validate``: the checks of admission, offline, and its warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.domain.advice import advice
from stepwell_cli.console import plain, print_json, say
from stepwell_cli.manifests import check_files, workflows
from stepwell_cli.sources import shown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.domain.errors import Problem
    from stepwell.domain.manifest import Document

INVALID = 2  # the exit code


def validate(files: Sequence[str], *, json: bool) -> int:
    """Print every problem on stdout, and warnings on stderr; the exit code."""
    documents, problems = check_files(files)
    warnings = [found.located(each) for found, workflow in workflows(documents) for each in advice(workflow.spec)]
    if json:
        found = {"problems": problems, "warnings": warnings}
        print_json({"valid": not problems} | {word: [_document(each) for each in found[word]] for word in found})
    else:
        for problem in problems:
            print(plain(str(problem)))
        for warning in warnings:
            say(f"warning: {warning}")
        _say_sound(files, documents, problems)
    return INVALID if problems else 0


def _say_sound(files: Sequence[str], documents: Sequence[Document], problems: Sequence[Problem]) -> None:
    names: dict[str | None, list[str]] = {shown_name(file): [] for file in files}
    for document in documents:
        name = document.name or f"{document.generate_name}…"
        names[document.file].append(f"{document.kind} {document.namespace}/{name}")
    for file in {problem.file for problem in problems}:
        del names[file]
    for sound, held in names.items():
        say(f"{sound}: ok ({', '.join(held) or 'holds no document'})")


def _document(problem: Problem) -> dict[str, str | int | None]:
    return {"file": problem.file, "line": problem.line, "path": problem.path, "message": problem.message}
