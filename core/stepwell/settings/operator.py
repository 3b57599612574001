"""Settings of the operator."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.domain.durations import parse_duration
from stepwell.settings.reading import Reader


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """How the operator keeps cluster and database in step."""

    sweep: float = 600.0
    """``STEPWELL_SWEEP``: seconds between two comparisons of all resources with the database. Default 10m."""

    @classmethod
    def read(cls, reader: Reader) -> OperatorSettings:
        """From the environment."""
        return cls(sweep=reader.value("STEPWELL_SWEEP", 600.0, parse_duration))
