"""Python's garbage collector, kept from stopping a process that is to answer within milliseconds."""

from __future__ import annotations

import gc


def settle() -> None:
    """Set aside what a started process holds for ever, so that no collection walks through it again.

    Modules, models and compiled expressions are some 80,000 objects; a full collection, every second under load, took
    45 to 60 ms for them, and every run waited. Call it once everything is imported and put together.
    """
    gc.collect()
    gc.freeze()
