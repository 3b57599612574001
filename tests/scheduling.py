"""Who runs which test files in `make test`: each file as a whole, and all of tests/controller in one process.

So there is one API server, whose start takes ten seconds of CPU time, and nobody else's objects are in it.
"""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

TOGETHER = "tests/controller/"


class ByServer(LoadFileScheduling):
    """As ``--dist loadfile``, with the tests of one API server as one file."""

    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER if nodeid.startswith(TOGETHER) else str(super()._split_scope(nodeid))
