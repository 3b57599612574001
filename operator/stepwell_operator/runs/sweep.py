"""Finds WorkflowRuns that were deleted while no operator heard of it: what the database knows and the cluster does not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from stepwell.adapters.postgres.run_objects import PAGE

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stepwell.adapters.postgres.run_objects import KnownObject
    from stepwell_operator.runs.follower import Follower

log = logging.getLogger(__name__)


class Known(Protocol):
    """The objects that runs were accepted for."""

    async def known(self, after: str = "") -> Sequence[KnownObject]:
        """A page by uid; shorter than `PAGE`: the last one. Raises UnavailableError."""


class Listed(Protocol):
    """The cluster."""

    async def uids(self) -> Collection[str]:
        """The uids of all objects, as they were at some moment after the call began. Raises UnavailableError."""


async def sweep(known: Known, listed: Listed, follower: Follower) -> int:
    """Tell the follower of every object that is gone; how many. Raises UnavailableError."""
    # In this order: an object that the database or the follower knows of was there before the cluster is asked, so its
    # absence there can only mean that it was deleted.
    candidates = await _all(known)
    tracks = [track for track in follower.tracks.values() if not track.gone]
    there = await listed.uids()
    gone = [candidate for candidate in candidates if candidate.uid not in there]
    for candidate in gone:
        follower.lost(candidate)
    unheard = [track.obj for track in tracks if track.obj is not None and track.uid not in there]
    for obj in unheard:
        follower.lost(obj)
    if gone:
        log.info("%d WorkflowRuns were deleted unheard; what still runs of them is cancelled", len(gone))
    return len(gone)


async def _all(known: Known) -> list[KnownObject]:
    found: list[KnownObject] = []
    while True:
        page = await known.known(found[-1].uid if found else "")
        found += page
        if len(page) < PAGE:
            return found
