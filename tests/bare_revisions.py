"""Revisions of steps that do nothing, for tests of ``decide``."""

from __future__ import annotations

from typing import Any

from stepwell.domain.graph import build_graph
from stepwell.domain.retry import NEVER
from stepwell.domain.revision import Revision, Step

NOW = 1_000_000_000


class Inert:
    def run(self, value: Any, context: Any) -> Any:
        return None


def revision(*steps: tuple[tuple[int, ...], bool]) -> Revision:
    """A revision of steps given as (needs, whether it is an effect)."""
    graph = build_graph([needs for needs, _ in steps])
    return Revision(
        steps=tuple(
            Step(
                index=index,
                name=f"s{index}",
                kind="httpCall" if effect else "transform",
                needs=needs,
                direct=sum(1 << need for need in needs),
                ancestors=graph.ancestors[index],
                condition=None,
                action=Inert(),
                effect=effect,
                retry=NEVER,
                timeout=30.0,
                continue_on_error=False,
                variables=frozenset(),
            )
            for index, (needs, effect) in enumerate(steps)
        ),
        output=None,
        input_schema=None,
        timeout=3600.0,
        priority="Normal",
        retain_succeeded=1.0,
        retain_failed=1.0,
    )
