"""Valkey as a child process, without persistence: what it holds can be lost at any time by design."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from stepwell.domain.errors import UnavailableError
from stepwell_cli.embedded.directory import ServiceDirectory
from stepwell_cli.embedded.process import Server
from stepwell_cli.embedded.wheels import valkey_program

if TYPE_CHECKING:
    from types import TracebackType

START_TIMEOUT = 10.0  #: seconds
SOCKET = "valkey.sock"


class EmbeddedValkey:
    """A Valkey on a unix socket. ``directory`` holds socket and log (None: temporary); there is no data to keep.

    Every method raises `UnavailableError` for what it cannot do.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._program = valkey_program()
        self._directory = ServiceDirectory(directory, "valkey")
        self._server: Server | None = None
        self._socket = Path()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended since."""
        return self._server is not None and self._server.running

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running().pid

    @property
    def url(self) -> str:
        """As redis-py reads it: ``unix:///path``; database ``n`` by ``?db=n``."""
        return f"unix://{quote(str(self._socket))}"

    def start(self) -> str:
        """Start an empty server and return `url`."""
        if self.running:
            return self.url
        self._directory.acquire()
        try:
            if self._server is not None:  # killed by somebody else
                self._server.kill()
            self._launch()
        except BaseException:
            self._directory.release()
            raise
        return self.url

    def stop(self) -> None:
        """Shut down and remove what is temporary."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        self._directory.release()

    def kill(self) -> None:
        """SIGKILL; clients find the socket's file and nobody behind it."""
        self._running().kill()
        self._server = None

    def restart(self) -> str:
        """Kill it and start an empty one under the same `url`."""
        self.kill()
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
            raise UnavailableError("the local Valkey is not started")
        return self._server

    def _launch(self) -> None:
        self._socket = self._directory.sockets(SOCKET) / SOCKET
        self._socket.unlink(missing_ok=True)
        argv = [str(self._program), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        argv += ["--dir", str(self._directory.path), "--save", "", "--appendonly", "no", "--databases", "64"]
        argv += ["--loglevel", "warning"]
        server = Server(
            argv,
            log=self._directory.path / "valkey.log",
            stop_signal=signal.SIGKILL,  # asked to end it would remove its socket: by then perhaps its successor's
            disposable=self._directory.disposable,
        )
        server.wait_ready(lambda: _answers(self._socket), START_TIMEOUT)
        self._server = server


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(5) == b"+PONG"
    except OSError:
        return False
