"""When a failed attempt is tried again, and after how long.

The back-off is exponential with full jitter (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
Its randomness is a hash of run, step and attempt, so that a replay computes the same delay.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from stepwell.domain.documents import JsonObject
from stepwell.domain.errors import StepwellError

MAX_RETRY_AFTER = 3600.0  # seconds; a server may ask for a longer pause, but does not get it


@dataclass(slots=True, eq=False)
class StepFailure(StepwellError):  # noqa: N818 - an expected outcome of an attempt, by its name
    """One attempt of a step failed.

    ``kind`` is what ``retryOn`` matches: ``Timeout``, ``Network`` or ``Error``. ``status`` is the HTTP status where
    there was an answer. ``sent`` says whether any byte of the request may have reached the other side. ``retry_after``
    is the pause in seconds that the other side asked for. ``final`` failures are never tried again.
    """

    reason: str
    message: str
    kind: str = "Error"
    status: int | None = None
    sent: bool = True
    retry_after: float | None = None
    final: bool = False
    http: JsonObject | None = None

    def __post_init__(self) -> None:
        Exception.__init__(self, self.message)

    def document(self) -> JsonObject:
        """The failure as ``steps.<name>.error`` and the ``error`` columns show it."""
        shown: JsonObject = {"reason": self.reason, "message": self.message}
        if self.status is not None:
            shown["status"] = self.status
        return shown


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``limit`` retries after the first attempt; delays in seconds.

    ``retry_on`` holds kinds, statuses and classes such as ``"5xx"``. ``retry_unsent_on`` holds what is retried only
    where nothing was sent: the default of methods that are not idempotent.
    """

    limit: int = 0
    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 60.0
    full_jitter: bool = True
    retry_on: frozenset[str | int] = field(default=frozenset({"Timeout", "Network", "Error"}))
    retry_unsent_on: frozenset[str | int] = frozenset()

    def allows(self, failure: StepFailure, attempt: int) -> bool:
        """Whether attempt number ``attempt`` (from 1), having failed so, is followed by another."""
        if failure.final or attempt > self.limit:
            return False
        marks = {failure.kind} if failure.status is None else {failure.status, f"{failure.status // 100}xx"}
        return bool(marks & self.retry_on) or (not failure.sent and bool(marks & self.retry_unsent_on))

    def delay(self, failure: StepFailure, attempt: int, identity: str) -> float:
        """Seconds to wait after attempt number ``attempt`` of the step named by ``identity``."""
        try:
            ceiling = min(self.maximum, self.initial * self.factor ** (attempt - 1))
        except OverflowError:
            ceiling = self.maximum
        pause = ceiling * _fraction(f"{identity}/{attempt}") if self.full_jitter else ceiling
        return max(pause, min(failure.retry_after or 0.0, MAX_RETRY_AFTER))


NEVER = RetryPolicy(limit=0)


def _fraction(identity: str) -> float:
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest()) / 2**64
