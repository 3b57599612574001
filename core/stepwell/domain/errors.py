"""Every error that a Stepwell user can meet, and the exit code that it means on the command line.

A message says what was wrong, where, and what to do. Errors of a library are re-typed at its boundary with ``from``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class StepwellError(Exception):
    """Something went wrong in Stepwell."""

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class DocumentError(StepwellError):
    """A JSON document holds something that Stepwell cannot store and read back unchanged."""

    exit_code = 2


class InputError(StepwellError):
    """The run's input does not fit the workflow."""

    exit_code = 2


class UsageError(StepwellError):
    """The command was not used as it is meant to be."""

    exit_code = 2


class NotFoundError(StepwellError):
    """There is no such workflow or run."""

    exit_code = 2


class ExpressionError(StepwellError):
    """An expression does not compile: its syntax, or a name that it uses, is wrong."""

    exit_code = 2


class EvaluationError(StepwellError):
    """An expression compiled, but could not be evaluated on the values it met."""


class AbsentError(EvaluationError):
    """An expression read a key, an item or a field that is not there."""


class UnavailableError(StepwellError):
    """Something outside Stepwell (database, Redis, a port) is missing, refused us, or did not answer."""


class DataRefusedError(StepwellError):
    """The store refused what a statement wanted to write. The statement changed nothing."""


class ConflictError(StepwellError):
    """Two transactions stood in each other's way (a deadlock); nothing was changed, and a second try may succeed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a manifest.

    ``path`` is the field's path as in ``spec.steps[1].httpCall.url`` ("" for the whole document); ``line`` counts
    from 1 within ``file``, both None where the manifest did not come from a text.
    """

    path: str
    message: str
    line: int | None = None
    file: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ManifestError(StepwellError):
    """A manifest is not valid. ``problems`` holds every problem that was found, in the order of the text."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))
