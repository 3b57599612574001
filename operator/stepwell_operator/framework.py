"""How kopf is set up: what it may store on an object is one hash, and it adds no finalizer."""

from __future__ import annotations

import logging

import kopf

from stepwell_operator.diff_base import HashDiffBase, NoProgress

PREFIX = "stepwell.dev"  # of every annotation that the operator writes
PAGE = 500  # objects in one answer to the first list
CONNECT = 10.0  # seconds
REQUEST = 60.0  # seconds that one call may take
PAUSES = (0.5, 1, 2, 3, *[5] * 9)  # seconds between tries of a call; a refusal ends the operator after the last of them


def new_registry() -> kopf.OperatorRegistry:
    """A registry of our own; it logs in as the kubeconfig (``KUBECONFIG``) or the pod's service account says."""
    return kopf.get_default_registry().__class__()


def new_settings() -> kopf.OperatorSettings:
    """Kopf's settings.

    Handlers end in one go and never raise, so there is no progress to store.
    """
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # two lines for each of 10,000 objects else
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = HashDiffBase(f"{PREFIX}/last-handled")
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.finalizer = f"{PREFIX}/never"
    settings.posting.enabled = False  # events have specific reasons and go through `events.py`
    settings.networking.connect_timeout = CONNECT
    settings.networking.request_timeout = REQUEST
    settings.networking.error_backoffs = PAUSES
    settings.watching.connect_timeout = CONNECT
    settings.watching.chunk_size = PAGE
    settings.queueing.exit_timeout = 0.5
    settings.queueing.idle_timeout = 1.0
    return settings
