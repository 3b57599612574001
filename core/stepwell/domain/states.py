"""The states of runs and steps, and which of them are final.

::

    queued ──claim──► running ──end──► succeeded | failed | cancelled | timed_out
      ▲                 │ ▲
      └──wake── waiting ◄┘ └─ hand back, lost worker: queued again
"""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """The life of a run, as the words that stand in ``workflow_runs.status``."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  #: nothing of it runs or can start before a timer or an event
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    @property
    def final(self) -> bool:
        """Whether the run has ended: such a row never changes again."""
        return self in FINAL


FINAL = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.TIMED_OUT})


class StepStatus(StrEnum):
    """How a step, or one attempt of it, ended, as the words that stand in ``step_runs.status``."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"

    @property
    def word(self) -> str:
        """The status as expressions see it: ``Succeeded``, ``Failed`` or ``Skipped``."""
        return self.value.capitalize()
