"""``python -I -S become.py UID GID PROGRAM ARG…``: run a program as another user that may walk through closed directories.

For root on Linux only. It keeps one capability, to read through directories closed to that user, and drops all others;
the alternative would be to open ``/root`` for everybody. Imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522


def _become(uid: int, gid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    capability = _walking_capability()
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    held = struct.pack("=6I", *[1 << capability] * 3, 0, 0, 0)
    if libc.capset(header, held) or libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot keep the right to walk through closed directories")


def _walking_capability() -> int:
    status = Path("/proc/self/status").read_text("ascii")
    permitted = int(status.partition("CapPrm:")[2].split()[0], 16)
    return _CAP_DAC_READ_SEARCH if permitted >> _CAP_DAC_READ_SEARCH & 1 else _CAP_DAC_OVERRIDE


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606 (what owner.command_as put there)
