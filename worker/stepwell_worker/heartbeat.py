"""The heartbeat: a thread of its own, so that no step and no slow query can hold it up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from stepwell.adapters.postgres.liveness import Liveness
from stepwell.domain.errors import StepwellError
from stepwell.engine.trust import Trust

PERIOD = 5.0  # seconds
AGAIN = 1.0  # seconds after a heartbeat that failed
LOOP_SILENCE = 10.0  # seconds without a turn of the event loop, after which the worker no longer counts as alive

log = logging.getLogger(__name__)


class Heartbeat:
    """Beats every ``period`` seconds while the event loop turns.

    ``on_cancels`` and ``on_dead`` are called in the heartbeat's thread.
    """

    def __init__(
        self,
        liveness: Liveness,
        worker: int,
        trust: Trust,
        *,
        on_cancels: Callable[[Sequence[str]], None],
        on_dead: Callable[[], None],
        period: float = PERIOD,
    ) -> None:
        self._liveness = liveness
        self._worker = worker
        self._trust = trust
        self._on_cancels = on_cancels
        self._on_dead = on_dead
        self._period = period
        self._turned = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once, so that the worker may act at once, and go on in the thread."""
        self._tried()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and say that the worker is gone."""
        self._stop.set()
        self._thread.join(timeout=10.0)
        try:
            self._liveness.unregister(self._worker)
        except StepwellError as exc:
            log.warning("the worker could not sign off: %s", exc)
        self._liveness.close()

    def turned(self) -> None:
        """The event loop turned."""
        self._turned = time.monotonic()

    def _run(self) -> None:
        pause = self._period
        while not self._stop.wait(pause):
            if time.monotonic() - self._turned > LOOP_SILENCE:
                log.error("the event loop has not turned for %.0f s; not beating", time.monotonic() - self._turned)
                continue
            pause = self._period if self._tried() else min(self._period, AGAIN)

    def _tried(self) -> bool:
        """Beat; whether that was answered."""
        try:
            self._beat()
        except StepwellError as exc:
            log.warning("%s", exc)
            return False
        except Exception:  # without this thread the worker would be declared dead and never hear of it
            log.exception("a heartbeat failed")
            return False
        return True

    def _beat(self) -> None:
        began = time.monotonic()
        if not self._liveness.beat(self._worker):
            self._trust.revoke()
            self._stop.set()
            self._on_dead()
            return
        self._trust.confirm(began)
        cancels = self._liveness.cancelling(self._worker)
        if cancels:
            self._on_cancels(cancels)
