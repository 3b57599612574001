"""The processes of a PostgreSQL data directory, found from outside: its pid file, and who works in it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from stepwell.domain.errors import UnavailableError
from stepwell_cli.embedded.process import STOP_TIMEOUT

_PROC = Path("/proc")
_READY = 7  #: the line of postmaster.pid that holds the state


def is_ready(data: Path, pid: int) -> bool:
    """Whether postmaster ``pid`` accepts sessions: recovery is done, or it is a standby's, which never is."""
    lines = _pid_file(data)
    return len(lines) > _READY and lines[0].strip() == str(pid) and lines[_READY].strip() in {"ready", "standby"}


def end_orphan(data: Path) -> None:
    """End a server that outlived the process that had started it; UnavailableError if it does not end.

    To be called under the directory's lock: then nobody else uses it. A pid file whose number another process carries
    today is removed, because PostgreSQL would refuse to start; any other it judges best itself.
    """
    lines = _pid_file(data)
    pids = processes(data)
    for sig in signal.SIGINT, signal.SIGQUIT, signal.SIGKILL:
        for pid in pids:
            send(pid, sig)
        if wait_gone(pids):
            break
    else:
        msg = f"processes {pids} use {data} and do not end: kill them"
        raise UnavailableError(msg)
    if lines and send(int(lines[0]), 0):
        (data / "postmaster.pid").unlink(missing_ok=True)


def processes(data: Path) -> list[int]:
    """The postmaster and its children: all PostgreSQL processes that work in ``data``.

    Without /proc only the postmaster; its children end by themselves when they miss it.
    """
    if not _PROC.joinpath("self").exists():
        return [int(line) for line in _pid_file(data)[:1] if send(int(line), 0)]
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal() and _works_in(entry, data)]


def send(pid: int, sig: int) -> bool:
    """Send a signal; False if the process is gone."""
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        return False
    return True


def wait_gone(pids: list[int]) -> bool:
    """Wait until all have ended, at most `STOP_TIMEOUT` seconds."""
    deadline = time.monotonic() + STOP_TIMEOUT
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []


def _works_in(entry: Path, data: Path) -> bool:
    try:
        return (entry / "exe").readlink().name == "postgres" and (entry / "cwd").samefile(data)
    except OSError:  # ended meanwhile, or a zombie, or not ours to look at
        return False


def _alive(pid: int) -> bool:
    try:
        state = _PROC.joinpath(str(pid), "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except OSError:
        return not _PROC.joinpath("self").exists() and send(pid, 0)
    return state != "Z"  # in a container nobody may be there to reap an orphan
