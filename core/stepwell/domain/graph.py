"""The order of steps: what each waits for, directly and transitively, and where that goes round in a circle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Graph:
    """Steps by their position in the list; ``ancestors`` are bit masks over positions.

    ``order`` lists all positions so that each stands after everything it needs.
    """

    needs: tuple[tuple[int, ...], ...]
    ancestors: tuple[int, ...]
    order: tuple[int, ...]


def direct_needs(names: Sequence[str], needs: Sequence[Sequence[str] | None]) -> tuple[tuple[int, ...], ...]:
    """The positions that each step waits for: the step before it where it states nothing. Unknown names are left out."""
    position = {name: index for index, name in enumerate(names)}
    found: list[tuple[int, ...]] = []
    for index, stated in enumerate(needs):
        if stated is None:
            found.append((index - 1,) if index else ())
        else:
            found.append(tuple(dict.fromkeys(position[name] for name in stated if name in position)))
    return tuple(found)


def find_cycle(needs: Sequence[Sequence[int]]) -> list[int] | None:
    """The positions of one cycle, each waiting for the next, the first repeated at the end; None where there is none."""
    state = [0] * len(needs)  # 0 new, 1 on the way, 2 done
    for start in range(len(needs)):
        way: list[int] = []
        stack = [] if state[start] else [(start, iter(needs[start]))]
        while stack:
            node, rest = stack[-1]
            if state[node] == 0:
                state[node] = 1
                way.append(node)
            following = next((other for other in rest if state[other] != 2), None)
            if following is None:
                state[node] = 2
                way.pop()
                stack.pop()
            elif state[following] == 1:
                return [*way[way.index(following) :], following]
            else:
                stack.append((following, iter(needs[following])))
    return None


def build_graph(needs: Sequence[Sequence[int]]) -> Graph:
    """Order and ancestors of steps. Raises ValueError where the needs go round in a circle."""
    ancestors = [0] * len(needs)
    order: list[int] = []
    waiting = [len(set(stated)) for stated in needs]
    followers: list[list[int]] = [[] for _ in needs]
    for index, stated in enumerate(needs):
        for other in set(stated):
            followers[other].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    while ready:
        index = ready.pop()
        order.append(index)
        for other in needs[index]:
            ancestors[index] |= ancestors[other] | 1 << other
        for follower in followers[index]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                ready.append(follower)
    if len(order) < len(needs):
        raise ValueError("the needs of the steps go round in a circle")
    return Graph(tuple(map(tuple, needs)), tuple(ancestors), tuple(order))
