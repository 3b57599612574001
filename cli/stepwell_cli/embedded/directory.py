"""The directory of an embedded service: temporary or kept, owned by one process at a time, with a short socket path."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from stepwell.domain.errors import UnavailableError

NOTE = "sockets"  #: the file that names the short directory
SOCKET_PATH_LIMIT = 103  #: bytes; ``sun_path`` holds 104 with its NUL on macOS, 108 on Linux


class ServiceDirectory:
    """``path`` holds a service's files; None makes a temporary one, which ``release`` removes.

    ``acquire`` raises `UnavailableError` while another process holds the directory. The kernel frees the lock when
    its holder dies, however it dies.
    """

    def __init__(self, path: Path | None, name: str) -> None:
        self.temporary = path is None
        self.path = Path(tempfile.mkdtemp(prefix=f"stepwell-{name}-")) if path is None else path.absolute()
        if self.temporary:
            self.path.chmod(0o711)  # the server may run as another user; what it keeps inside is closed again
        self._lock: int | None = None
        self._short: Path | None = None

    def acquire(self) -> None:
        """Make the directory and lock it; a second call does nothing."""
        if self._lock is not None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            msg = f"cannot use {self.path} for local data: {error.strerror}"
            raise UnavailableError(msg) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            msg = f"{self.path} is in use by process {holder}: stop that one first, or choose another directory"
            raise UnavailableError(msg) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._lock = handle

    def release(self) -> None:
        """Unlock, and remove what is temporary."""
        for path in self.path if self.temporary else None, self._short:
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
        self._short = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sockets(self, file_name: str) -> Path:
        """A directory in which a socket called ``file_name`` has a path that the kernel accepts."""
        place = self.path / "run"
        if len(os.fsencode(place / file_name)) <= SOCKET_PATH_LIMIT:
            place.mkdir(mode=0o700, exist_ok=True)
            return place
        if self._short is None:
            self._short = self._again() or Path(tempfile.mkdtemp(prefix="stepwell-", dir="/tmp"))
            (self.path / NOTE).write_text(str(self._short), "utf-8")
        return self._short

    def _again(self) -> Path | None:
        """The short directory of the last start, made anew: who was connected to these services finds them there."""
        try:
            place = Path("/tmp") / Path((self.path / NOTE).read_text("utf-8")).name  # noqa: S108 - as mkdtemp above
            if not place.name.startswith("stepwell-"):
                return None
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o700)  # fails where anything, also of somebody else, stands in its place
        except (OSError, ValueError):
            return None
        return place

    @property
    def disposable(self) -> tuple[Path, ...]:
        """What somebody else may remove should its owner die: nothing that the next owner uses again."""
        paths = (self.path, self._short) if self.temporary else ()
        return tuple(path for path in paths if path is not None)
