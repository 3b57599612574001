"""W3C Trace Context, level 1: the trace is the run, the span is the step, at every attempt."""

from __future__ import annotations

import hashlib

_HEX = frozenset("0123456789abcdef")


def trace_id(run_id: str) -> str:
    """The trace of a run: its id where that is a UUID, as everywhere but in tests."""
    trace = run_id.replace("-", "").lower()
    if len(trace) != 32 or not set(trace) <= _HEX:
        trace = hashlib.blake2b(run_id.encode(), digest_size=16).hexdigest()
    return trace


def span_id(idempotency_key: str) -> str:
    """The span of a step."""
    return hashlib.blake2b(idempotency_key.encode(), digest_size=8).hexdigest()
