"""Named places where a drill may kill, stall or fail the process; free when not armed.

``STEPWELL_CRASH_AT=name[:n][=kill|raise|stall]`` arms the n-th passage (default the first) of one point.
"""

from __future__ import annotations

import os
import signal

_ARMED = os.environ.get("STEPWELL_CRASH_AT", "")


class CrashError(BaseException):
    """Raised by a crash point that was armed with ``raise``; nothing may catch it as an ordinary error."""


class _Point:
    def __init__(self, setting: str) -> None:
        place, _, self.how = setting.partition("=")
        self.name, _, count = place.partition(":")
        self.left = int(count or 1)

    def passed(self, name: str) -> None:
        if name != self.name:
            return
        self.left -= 1
        if self.left == 0:
            self._strike()

    def _strike(self) -> None:
        if self.how == "raise":
            raise CrashError(self.name)
        os.kill(os.getpid(), signal.SIGSTOP if self.how == "stall" else signal.SIGKILL)


if _ARMED:
    _point = _Point(_ARMED)

    def crashpoint(name: str) -> None:
        """Strike here if this point is the armed one."""
        _point.passed(name)

else:

    def crashpoint(name: str) -> None:
        """Do nothing."""
