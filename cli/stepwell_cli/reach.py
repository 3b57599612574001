"""Where a command finds the database: the environment says it, else the ``stepwell dev`` of this folder does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stepwell_cli.console import say
from stepwell_cli.dev.folder import find

if TYPE_CHECKING:
    from stepwell.settings import Settings
    from stepwell_cli.dev.folder import LiveDev


def reached(settings: Settings) -> tuple[Settings, LiveDev | None]:
    """The settings with the services of a ``stepwell dev``, said on stderr; as they were where there is none to use."""
    live = find()
    if live is None or settings.database_url not in {None, live.database_url}:
        return settings, None
    say(f"using `stepwell dev` in {live.folder}, process {live.pid}")
    found = replace(settings, database_url=live.database_url, redis_url=live.redis_url, redis_prefix=live.redis_prefix)
    return found, live
