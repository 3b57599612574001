"""PostgreSQL and Valkey on this machine, from wheels: what ``stepwell run`` and ``stepwell dev`` stand on.

Both servers listen on unix sockets in a directory that only their owner enters, run as children of this process,
and end with it however it ends (``process``). fsync stays on: a kept directory survives what a database survives.
"""

from __future__ import annotations

from stepwell_cli.embedded.postgres import EmbeddedPostgres
from stepwell_cli.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey"]
