"""What comes after the steps: which list of handlers has its turn, for how long, and what the run comes to.

``onFailure`` runs when the steps ended otherwise than well, ``finally`` always, one after the other. How the steps ended is
the run's outcome: it is written before any handler starts and becomes the run's status when the last one is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.domain.revision import Part
from stepwell.domain.states import RunStatus

if TYPE_CHECKING:
    from stepwell.domain.revision import Revision

BUDGET = 300_000_000  # microseconds that a list of handlers may take
RECOVERIES = 3  # times that a list is taken up again after its worker died
LATE = 30_000_000  # microseconds after its end at which a budget is found to have run out while nobody was there


def following(revision: Revision, part: int, outcome: RunStatus) -> Part | None:
    """The list of handlers whose turn it is after ``part``; None: the run is over."""
    if part < Part.ON_FAILURE and outcome is not RunStatus.SUCCEEDED and revision.parts[Part.ON_FAILURE]:
        return Part.ON_FAILURE
    return Part.FINALLY if part < Part.FINALLY and revision.parts[Part.FINALLY] else None


def final_status(outcome: RunStatus, part: int, ended: RunStatus) -> RunStatus:
    """The run's status once the list ``part`` ended as ``ended``: what was wrong before stays, and a ``finally`` that did not
    succeed fails a run that had.
    """
    spoilt = part == Part.FINALLY and outcome is RunStatus.SUCCEEDED and ended is not RunStatus.SUCCEEDED
    return RunStatus.FAILED if spoilt else outcome


def budget_end(until: int, now: int) -> int:
    """When the list's time is over, for a worker that takes the run up ``now``: anew where nobody was there to use it."""
    return now + BUDGET if now > until + LATE else until
