"""Temporary files in memory, where there is room: the servers of the tests make and delete tens of thousands of files.

ext4 does not take the inodes of recently deleted files again at once, and looks for others one by one: after a minute of tests
a database of 600 files took three to five times the CPU time there.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 6 * 2**30  #: bytes that must be free; a whole run takes a third of it


def use_memory() -> None:
    """Make it the place of temporary files, for child processes too, unless TMPDIR names one."""
    if "TMPDIR" not in os.environ and _fits():
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


def _fits() -> bool:
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return False
    # Programs are started from temporary directories as well.
    return os.access(MEMORY, os.W_OK) and not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize >= ROOM
