"""The `stepwell` command as a user starts it: a process of its own, with nothing of the tests' environment."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from stepwell_cli import main as command_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
STEPWELL = Path(sys.executable).with_name("stepwell")
TIMEOUT = 60.0  #: seconds
RECEIVER = "127.0.0.1:8099"  #: where the examples send to


def environment(**changes: str) -> dict[str, str]:
    """Ours without what steers Stepwell, and with ``changes``."""
    steering = re.compile(
        r"DATABASE_URL|REDIS_URL|STEPWELL_|KUBERNETES_|PG[A-Z]+|NO_COLOR|FORCE_COLOR|COLUMNS|_STEPWELL_COMPLETE"
    )
    return {name: value for name, value in os.environ.items() if not steering.match(name)} | changes


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, stdin: str = "", timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Any command to its end."""
    return subprocess.run(
        list(map(str, command)),
        env=environment(**(env or {})),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def stepwell(
    *arguments: str | Path, env: Mapping[str, str] | None = None, stdin: str = "", timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """`stepwell` with arguments, to its end."""
    return run(STEPWELL, *arguments, env=env, stdin=stdin, timeout=timeout)


def within(
    *arguments: str | Path, env: Mapping[str, str] | None = None, stdin: str = "", folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`stepwell` within this process: the same but for what a process of its own costs, half a second.

    ``folder``: where it is called, if not here. Its log is set up for it alone.
    """
    output, errors = StringIO(), StringIO()
    argv = ["stepwell", *map(str, arguments)]
    with (
        redirect_stdout(output),
        redirect_stderr(errors),
        patch.dict(os.environ, environment(**(env or {})), clear=True),
        patch.multiple(sys, argv=argv, stdin=TextIOWrapper(BytesIO(stdin.encode()), "utf-8")),
        chdir(folder or "."),
        _log_left_alone(),
    ):
        code = 0
        try:
            command_line.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(argv, code, output.getvalue(), errors.getvalue())


@contextmanager
def _log_left_alone() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)


@contextmanager
def started(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`stepwell` while it runs; killed at the end if it still does."""
    process = subprocess.Popen(
        [str(STEPWELL), *map(str, arguments)],
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def with_receiver(port: int, *arguments: str | Path) -> list[str]:
    """The command that serves the examples' receiver on ``port`` while `stepwell` runs."""
    receiver = [sys.executable, str(EXAMPLES / "receiver.py"), "--port", str(port), "--"]
    return [*receiver, str(STEPWELL), *map(str, arguments)]


def example(name: str, port: int, directory: Path) -> Path:
    """An example's copy that sends to ``port``."""
    copy = directory / name
    copy.write_text((EXAMPLES / name).read_text("utf-8").replace(RECEIVER, f"127.0.0.1:{port}"), "utf-8")
    return copy
