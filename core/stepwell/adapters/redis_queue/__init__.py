"""The ready queue in Redis or Valkey: a disposable accelerator that holds ids only."""

from __future__ import annotations

from stepwell.adapters.redis_queue.queue import ReadyQueue

__all__ = ["ReadyQueue"]
