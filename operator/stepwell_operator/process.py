"""The operator's process."""

from __future__ import annotations

from stepwell.domain.errors import UsageError
from stepwell.settings import Settings


def main(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises UsageError where a setting is missing."""
    if settings.database_url is None or settings.redis_url is None:
        message = "set DATABASE_URL and REDIS_URL: the operator connects to both"
        raise UsageError(message)
