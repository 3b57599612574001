"""What a job is to the leader."""

from __future__ import annotations

from typing import Protocol


class Job(Protocol):
    """Something that the leader does again and again, in small batches."""

    @property
    def name(self) -> str:
        """For logs and metrics."""

    async def run(self) -> float:
        """Do what is due and return after how many seconds to be called again."""

    def reset(self) -> None:
        """Leadership begins or the database came back: whatever was watched so far counts no more."""
