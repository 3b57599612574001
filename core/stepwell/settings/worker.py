"""Settings of the worker."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.domain.durations import format_duration, parse_duration
from stepwell.domain.errors import UsageError
from stepwell.settings.reading import Reader, positive


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How one worker process behaves."""

    slots: int = 200
    """``STEPWELL_SLOTS``: runs that one process executes at once. Default 200."""

    grace: float = 45.0
    """``STEPWELL_GRACE``: seconds that steps in flight may take to end after SIGTERM. Default 45s, the longest default
    step timeout and 15 seconds."""

    heartbeat: float = 5.0
    """``STEPWELL_HEARTBEAT``: seconds between two signs of life. Default 5s."""

    trust: float = 15.0
    """``STEPWELL_TRUST_WINDOW``: seconds after the start of its last confirmed heartbeat in which a worker claims runs
    and starts effects; longer than the heartbeat. Default 15s."""

    silence: float = 20.0
    """``STEPWELL_DEATH_SILENCE``: seconds of silence after which the leader declares a worker dead; longer than every
    worker's trust window. The leader's own lease falls after half of it. All workers are given the same. Default 20s."""

    def __post_init__(self) -> None:
        if not self.heartbeat < self.trust < self.silence:
            values = (self.heartbeat, self.trust, self.silence)
            message = (
                "STEPWELL_HEARTBEAT, STEPWELL_TRUST_WINDOW and STEPWELL_DEATH_SILENCE must grow in this order, not {}"
            )
            raise UsageError(message.format(", ".join(map(format_duration, values))))

    @classmethod
    def read(cls, reader: Reader) -> WorkerSettings:
        """From the environment."""
        return cls(
            slots=reader.value("STEPWELL_SLOTS", 200, positive),
            grace=reader.value("STEPWELL_GRACE", 45.0, parse_duration),
            heartbeat=reader.value("STEPWELL_HEARTBEAT", 5.0, parse_duration),
            trust=reader.value("STEPWELL_TRUST_WINDOW", 15.0, parse_duration),
            silence=reader.value("STEPWELL_DEATH_SILENCE", 20.0, parse_duration),
        )
