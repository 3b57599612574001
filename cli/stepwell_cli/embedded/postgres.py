"""PostgreSQL as a child process: ``initdb`` once per directory, then ``postgres`` itself, never ``pg_ctl``."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from stepwell.domain.errors import UnavailableError
from stepwell_cli.embedded.directory import ServiceDirectory
from stepwell_cli.embedded.owner import command_as, server_owner
from stepwell_cli.embedded.postmaster import end_orphan, is_ready, processes, send, wait_gone
from stepwell_cli.embedded.process import Server, tail
from stepwell_cli.embedded.wheels import postgres_programs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

START_TIMEOUT = 60.0  #: seconds; a crashed database first replays its WAL
SOCKET = ".s.PGSQL.5432"
#: For a small machine. What bears on durability and on the amount of WAL is left as PostgreSQL ships it (fsync,
#: synchronous_commit, full_page_writes, checksums, wal_level), so that what is measured here holds elsewhere.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "jit": "off",  # statements take a millisecond; compiling one takes a hundred
    "io_method": "sync",  # no I/O worker processes
    "max_parallel_workers_per_gather": "0",
    "max_wal_senders": "0",
    "huge_pages": "off",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgres:
    """A PostgreSQL on a unix socket; its superuser is ``postgres``, without a password.

    ``directory`` keeps the data (None: temporary, gone after `stop`); ``settings`` go over `SETTINGS`. As root the
    server runs as an unprivileged user. Every method raises `UnavailableError` for what it cannot do.
    """

    def __init__(self, directory: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self._programs = postgres_programs()
        self._directory = ServiceDirectory(directory, "postgres")
        self._settings = {**SETTINGS, **(settings or {})}
        self._owner = server_owner()
        self._server: Server | None = None
        self._sockets = Path()

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self._directory.path / "data"

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended since."""
        return self._server is not None and self._server.running

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._running().pid

    def dsn(self, database: str = "postgres") -> str:
        """The URL of ``database``."""
        return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(self._sockets), safe='')}"

    def start(self) -> str:
        """Start on the directory, making the cluster if there is none, and return `dsn`; a crash is recovered from."""
        if self.running:
            return self.dsn()
        self._directory.acquire()
        try:
            if self._server is not None:  # killed by somebody else
                self._server.kill()
            if not (self.data / "PG_VERSION").exists():
                self._initdb()
            end_orphan(self.data)
            self._launch()
        except BaseException:
            self._directory.release()
            raise
        return self.dsn()

    def stop(self) -> None:
        """Shut down, cutting open sessions. Temporary data goes with it."""
        if self._server is not None:
            # What will be deleted needs no checkpoint.
            self._server.stop(signal.SIGQUIT if self._directory.temporary else None)
            self._server = None
        self._directory.release()

    def kill(self) -> None:
        """SIGKILL the postmaster and all its processes, as a power cut would end them; `start` recovers."""
        server = self._running()
        pids = processes(self.data)
        server.kill()
        for pid in pids:
            send(pid, signal.SIGKILL)
        wait_gone(pids)
        self._server = None

    def restart(self) -> str:
        """Shut down and start again on the same data."""
        self._running().stop()
        self._server = None
        return self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> Server:
        if self._server is None:
            raise UnavailableError("the local PostgreSQL is not started")
        return self._server

    def _launch(self) -> None:
        self._sockets = self._directory.sockets(SOCKET)
        self._give(self._sockets)
        settings = self._settings | {"unix_socket_directories": str(self._sockets)}
        argv = [str(self._programs / "postgres"), "-D", str(self.data)]
        argv += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        server = self._serve(argv, "postgres", self.data, self._sockets / SOCKET)
        server.wait_ready(lambda: is_ready(self.data, server.pid), START_TIMEOUT)
        self._server = server

    def _initdb(self) -> None:
        half_made = self._directory.path / "data.new"  # renamed once complete: initdb may be killed half-way
        shutil.rmtree(half_made, ignore_errors=True)
        half_made.mkdir(mode=0o700)
        self._give(half_made)
        argv = [
            str(self._programs / "initdb"),
            "-D",
            str(half_made),
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
        ]
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-locale", "--no-instructions"]
        if self._directory.temporary:
            argv.append("--no-sync")  # skips one sync of the new files; the server's own fsync is another matter
        code = self._serve(argv, "initdb", half_made).wait(START_TIMEOUT)
        if code:
            log = tail(self._directory.path / "initdb.log")
            msg = f"cannot make a local PostgreSQL in {self.data}: initdb ended with {code}:\n{log}"
            raise UnavailableError(msg)
        half_made.rename(self.data)

    def _serve(self, argv: list[str], name: str, *paths: Path) -> Server:
        argv, owner = command_as(self._owner, argv, self._programs / "postgres", *paths)
        log = self._directory.path / f"{name}.log"
        return Server(argv, log=log, stop_signal=signal.SIGINT, owner=owner, disposable=self._directory.disposable)

    def _give(self, path: Path) -> None:
        if self._owner is not None:
            os.chown(path, *self._owner)
