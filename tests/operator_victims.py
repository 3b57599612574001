"""Operators that die at named points, one after another: forked, so that not each of them imports everything anew.

Started as a program with STEPWELL_CRASH_AT set to anything. Reads a point from each line of stdin, runs an operator that is
to die there, and writes its exit code. `Victims` starts it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEATH = 60.0  #: seconds that a victim may take to come to its point, on a busy machine


class Victims:
    """``with Victims(environment, log) as victims: victims.die(point)``."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = {**os.environ, **environment, "STEPWELL_CRASH_AT": "nowhere"}
        self._log = log

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def die(self, point: str) -> None:
        """Run an operator until it is dead, by its own hand, at this point."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{point}\n".encode())
        self._process.stdin.flush()
        told, _, _ = select.select([self._process.stdout], [], [], DEATH)
        code = int(self._process.stdout.readline()) if told else None
        assert code == -signal.SIGKILL, f"{point}: {code}: {self._log.read_text()[-2000:]}"


def main() -> None:
    from stepwell.engine import crashpoints
    from stepwell.settings import read
    from stepwell.telemetry import setup_logging
    from stepwell_operator.process import main as operate

    for line in sys.stdin:
        victim = os.fork()
        if victim == 0:
            crashpoints._point = crashpoints._Point(line.strip())
            settings = read()
            setup_logging(settings.logs)
            operate(settings)
            os._exit(0)
        _, status = os.waitpid(victim, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
