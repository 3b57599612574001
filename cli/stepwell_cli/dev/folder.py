"""``.stepwell/``: the data of one ``stepwell dev``, its lock, and where other commands read how to reach it."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from stepwell.domain.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.settings import Settings

NAME = ".stepwell"
LOCK = "dev.pid"
CONNECTION = "dev.json"
KEY = "approval.key"
_TRIES, _PAUSE = 10, 0.02  # another command may hold the lock for a moment, to see whether somebody does


@dataclass(frozen=True, slots=True)
class LiveDev:
    """A ``stepwell dev`` that runs."""

    pid: int
    folder: Path
    database_url: str
    redis_url: str
    redis_prefix: str
    url: str
    token: str = field(repr=False)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder and be its only ``stepwell dev``. Raises UnavailableError, naming the one that is there."""
    try:
        folder.mkdir(exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", "utf-8")
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        message = f"cannot keep data in {folder}: {exc.strerror}"
        raise UnavailableError(message) from exc
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            return
        time.sleep(_PAUSE)
    pid = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
    message = f"`stepwell dev` runs in {folder.absolute().parent} already, as process {pid}: stop that one first"
    raise UnavailableError(message)


@contextmanager
def published(folder: Path, settings: Settings, url: str, token: str) -> Iterator[None]:
    """Tell other commands how to reach us, while the block lasts. Only our own user may read it: it holds the API's token,
    and URLs hold passwords.
    """
    about = {
        "pid": os.getpid(),
        "databaseUrl": settings.database_url,
        "redisUrl": settings.redis_url,
        "redisPrefix": settings.redis_prefix,
        "url": url,
        "token": token,
    }
    path, half_written = folder / CONNECTION, folder / f"{CONNECTION}.new"
    half_written.unlink(missing_ok=True)
    with open(os.open(half_written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - a mode
        file.write(orjson.dumps(about, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    half_written.rename(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def approval_key(folder: Path) -> str:
    """The key of links to approvals, made once: what was sent stays good over a restart."""
    path = folder / KEY
    with suppress(FileExistsError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 - a mode
        file.write(secrets.token_urlsafe(32))
    return path.read_text("utf-8")


def find(start: Path | None = None) -> LiveDev | None:
    """The ``stepwell dev`` that runs in this folder or in the nearest one above it."""
    here = (start or Path.cwd()).absolute()
    for place in (here, *here.parents):
        live = _live(place / NAME)
        if live is not None:
            return live
    return None


def _live(folder: Path) -> LiveDev | None:
    try:
        if (folder / CONNECTION).stat().st_uid != os.geteuid() or not _is_held(folder / LOCK):
            return None
        about: dict[str, Any] = orjson.loads((folder / CONNECTION).read_bytes())
        return LiveDev(
            int(about["pid"]),
            folder.parent,
            str(about["databaseUrl"]),
            str(about["redisUrl"]),
            str(about["redisPrefix"]),
            str(about["url"]),
            str(about["token"]),
        )
    except (OSError, ValueError, KeyError, TypeError):  # not there, not ours, or of another version
        return None


def _is_held(path: Path) -> bool:
    """Whether somebody lives behind the lock; a pid alone may be anybody's after a kill -9."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
