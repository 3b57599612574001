"""Processes of Stepwell that are forked from one that has imported everything: a second of CPU less for each of them.

Started as a program with STEPWELL_CRASH_AT set to anything, and the commands that it is to know (`worker`, …). Reads from each
line of stdin what a `Nursery` asks for, forks a `stepwell worker`, and writes its process id. When that ends, its exit code is
put into the file that was named.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

PARENT = {"STEPWELL_CRASH_AT": "nowhere"}  #: the points are in place when the code is imported, or never


class Nursery:
    """The parent of processes of these commands. When it ends, they are killed."""

    def __init__(self, *commands: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *commands],
            env=os.environ | PARENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def worker(self, environment: Mapping[str, str], log: Path, end: Path) -> int:
        """The process id of a new worker that writes to ``log``; its exit code will be in ``end``."""
        return self.process("worker", environment, log, end)

    def process(
        self,
        command: str,
        environment: Mapping[str, str],
        log: Path,
        end: Path,
        constants: Mapping[str, Any] | None = None,
    ) -> int:
        """Likewise for any command. ``constants`` of its modules are set first: {"package.module.NAME": value}."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {
            "command": command,
            "environment": dict(environment),
            "log": str(log),
            "end": str(end),
            "constants": dict(constants or {}),
        }
        self._process.stdin.write(orjson.dumps(order) + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it and them."""
        self._process.communicate()


@cache
def nursery() -> Nursery:
    """The one of this test process, started when it is first needed."""
    made = Nursery("worker")
    atexit.register(made.close)
    return made


# -- the program -------------------------------------------------------------------------------------------------------

_ends: dict[int, Path] = {}


def _reap(*_: object) -> None:
    """Note the exit codes of those that have ended."""
    while _ends:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        end = _ends.pop(pid)
        whole = end.with_suffix(".part")
        whole.write_text(str(os.waitstatus_to_exitcode(status)))
        whole.replace(end)


def _fork(order: dict[str, Any]) -> bool:
    """Whether this is the new process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    else:
        _ends[pid] = Path(order["end"])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    if pid:
        print(pid, flush=True)
    return pid == 0


def _become(command: str, environment: dict[str, str], log: str, constants: dict[str, Any]) -> None:
    from stepwell.engine import crashpoints
    from stepwell_cli.main import main

    for file, flags, number in ((os.devnull, os.O_RDONLY, 0), (log, os.O_WRONLY, 1), (log, os.O_WRONLY, 2)):
        opened = os.open(file, flags | (os.O_APPEND if number else 0))
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    if armed := environment.get("STEPWELL_CRASH_AT"):
        crashpoints._point = crashpoints._Point(armed)
    for place, value in constants.items():
        module, _, name = place.rpartition(".")
        assert hasattr(importlib.import_module(module), name), place
        setattr(sys.modules[module], name, value)
    sys.argv = ["stepwell", command]
    main()


def _serve(*commands: str) -> None:
    from stepwell.collector import settle
    from stepwell_cli import main, processes  # noqa: F401

    for command in commands:
        importlib.import_module(f"stepwell_{command}.process")
    settle()  # or each of them would walk through all modules, and copy their pages by that

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _reap)
    for line in iter(sys.stdin.buffer.readline, b""):
        order = orjson.loads(line)
        if _fork(order):
            _become(order["command"], order["environment"], order["log"], order["constants"])
            return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for pid in _ends:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
