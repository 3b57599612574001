from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.domain.graph import build_graph, direct_needs, find_cycle

Needs = list[list[int]]


@st.composite
def dags(draw: st.DrawFn) -> Needs:
    """Steps in any order whose needs point to earlier ones of a hidden order."""
    count = draw(st.integers(0, 12))
    hidden = draw(st.permutations(range(count)))
    needs: Needs = [[] for _ in range(count)]
    for place, step in enumerate(hidden):
        needs[step] = draw(st.lists(st.sampled_from(hidden[:place]), unique=True)) if place else []
    return needs


@st.composite
def graphs(draw: st.DrawFn) -> Needs:
    count = draw(st.integers(1, 8))
    return draw(st.lists(st.lists(st.integers(0, count - 1), max_size=4), min_size=count, max_size=count))


def reach(needs: Needs, start: int) -> set[int]:
    found: set[int] = set()
    todo = list(needs[start])
    while todo:
        step = todo.pop()
        if step not in found:
            found.add(step)
            todo += needs[step]
    return found


@given(dags())
def test_ancestors_are_what_can_be_reached(needs: Needs) -> None:
    graph = build_graph(needs)
    for step, mask in enumerate(graph.ancestors):
        assert {other for other in range(len(needs)) if mask >> other & 1} == reach(needs, step)


@given(dags())
def test_each_step_stands_after_what_it_needs(needs: Needs) -> None:
    assert find_cycle(needs) is None
    order = build_graph(needs).order
    assert sorted(order) == list(range(len(needs)))
    assert all(order.index(need) < order.index(step) for step, stated in enumerate(needs) for need in stated)


@given(graphs())
def test_a_cycle_is_found_exactly_where_there_is_one(needs: Needs) -> None:
    cycle = find_cycle(needs)
    assert (cycle is not None) == any(step in reach(needs, step) for step in range(len(needs)))
    if cycle is None:
        build_graph(needs)
        return
    assert cycle[0] == cycle[-1]
    assert len(set(cycle)) == len(cycle) - 1
    assert all(following in needs[step] for step, following in pairwise(cycle))
    with pytest.raises(ValueError, match="circle"):
        build_graph(needs)


def test_without_needs_a_step_follows_the_one_before() -> None:
    assert direct_needs(["a", "b", "c", "d"], [None, None, [], ["a", "c", "a", "x"]]) == ((), (0,), (), (0, 2))


def test_a_long_chain_needs_no_recursion() -> None:
    needs = [[step - 1] if step else [] for step in range(5000)]
    assert find_cycle(needs) is None
    assert build_graph(needs).ancestors[-1].bit_count() == 4999
