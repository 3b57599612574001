"""A server as a child of this process that never outlives it.

Beside each server runs a watchdog of one line of shell that reads from a pipe of which we hold the other end. When we
are gone, even by SIGKILL, the kernel closes that end, and the watchdog stops the server and removes temporary files.
(PR_SET_PDEATHSIG would do it on Linux only, and fires when the *thread* that started the child ends.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from stepwell.domain.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

STOP_TIMEOUT = 10.0  #: seconds that a server gets to end by itself before it is killed
_WATCHDOG = """
trap '' INT TERM HUP
read -r _ && exit 0
pid=$1 sig=$2; shift 2
kill -s "$sig" "$pid"
tries=0
while kill -0 "$pid" && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -s KILL "$pid"
rm -rf -- "$@"
"""


class Server:
    """One running server process. ``argv`` is run with ``user`` and ``group`` (None: our own), its output goes to ``log``.

    ``stop_signal`` ends it cleanly; ``disposable`` are directories that the watchdog removes should we die first.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        stop_signal: signal.Signals,
        owner: tuple[int, int] | None = None,
        disposable: Sequence[Path] = (),
    ) -> None:
        self.log = log
        self._stop_signal = stop_signal
        with log.open("wb") as output:
            self._process = spawn(argv, owner, output.fileno())
        try:
            self._watchdog = _watch(self.pid, stop_signal, disposable)
        except OSError:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there (it may be stopped by a signal)."""
        return self._process.poll() is None

    def wait_ready(self, ready: Callable[[], bool], timeout: float) -> None:
        """Return once ``ready()`` holds; UnavailableError with the log's end if the server ends or takes too long."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running or time.monotonic() > deadline:
                state = "did not get ready" if self.running else f"ended with {self._process.returncode}"
                self.kill()
                msg = f"the local {self.log.stem} {state}; its log {self.log} ends with:\n{tail(self.log)}"
                raise UnavailableError(msg)
            time.sleep(0.005)

    def wait(self, timeout: float) -> int:
        """Wait for it to end by itself and return its exit code; killed after ``timeout`` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()
        return self._process.returncode

    def stop(self, sig: signal.Signals | None = None) -> None:
        """End it with ``sig`` (default: the clean one) and wait; SIGKILL after `STOP_TIMEOUT`."""
        if self.running:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(sig or self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, reap, and dismiss the watchdog."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.communicate(b"\n")


def _watch(pid: int, stop_signal: signal.Signals, disposable: Sequence[Path]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 (fixed text, paths as arguments)
        ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(pid), stop_signal.name[3:], *map(str, disposable)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def spawn(argv: Sequence[str], owner: tuple[int, int] | None, output: int) -> subprocess.Popen[bytes]:
    """Start ``argv`` as ``owner`` (uid, gid), in a session of its own: ^C in the terminal is ours to handle.

    The environment is bare: a user's PGPORT or LC_ALL must not change what an embedded server does.
    """
    try:
        return subprocess.Popen(  # noqa: S603 (programs of our own wheels)
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            user=owner and owner[0],
            group=owner and owner[1],
            extra_groups=[] if owner else None,
        )
    except OSError as error:
        msg = f"cannot start {argv[0]}: {error.strerror}"
        raise UnavailableError(msg) from error


def tail(log: Path, lines: int = 10) -> str:
    """The last lines of a log, "" if there is none."""
    try:
        return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
