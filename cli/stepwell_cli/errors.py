"""How a command ends: its exit code, and what people read where something went wrong. Never a stack trace by itself."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

DEFECT = 3  # the exit code of what should not happen


def presented(command: Callable[[], object]) -> None:
    """Call a command; every error becomes a message on stderr and an exit code."""
    try:
        command()
    except Exception as exc:  # noqa: BLE001 - the outermost place
        sys.exit(_present(exc))


def _present(error: Exception) -> int:
    from stepwell.domain.errors import StepwellError
    from stepwell_cli.console import say

    if os.environ.get("STEPWELL_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, StepwellError):
        say(f"stepwell: {error}" if "\n" not in str(error) else str(error))
        return error.exit_code
    say(f"stepwell: {type(error).__name__}: {error}")
    say("This is a defect of Stepwell. Set STEPWELL_DEBUG=1 to see where it happened, and please report it.")
    return DEFECT
