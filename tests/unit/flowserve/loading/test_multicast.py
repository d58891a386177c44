"""Blocks between hosts: every schedule is carried out here, and what it promises is counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.loading.multicast import Schedule, binomial_pipeline, groups_of, k_way, rotated


def held_after_each_tick(
    schedule: Schedule, nodes: Sequence[int], blocks: Sequence[int], num_sources: int = 1
) -> list[dict[int, set[int]]]:
    """Carries it out: nobody sends what it has not, twice in a tick, or what the other has."""
    held = {node: set(blocks) if place < num_sources else set() for place, node in enumerate(nodes)}
    found = []
    for transfers in schedule:
        for ends in (Counter(move.source for move in transfers), Counter(move.target for move in transfers)):
            assert max(ends.values(), default=0) <= 1
        before = {node: set(has) for node, has in held.items()}
        for move in transfers:
            assert move.block in before[move.source] and move.block not in before[move.target]
            held[move.target].add(move.block)
        found.append({node: set(has) for node, has in held.items()})
    return found


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("num_blocks", [1, 2, 7, 16, 32])
def test_a_power_of_two_takes_the_least_ticks(dimensions: int, num_blocks: int) -> None:
    nodes, blocks = range(100, 100 + 2**dimensions), range(num_blocks)
    schedule = binomial_pipeline(nodes, blocks)
    assert len(schedule) == dimensions + num_blocks - 1
    assert all(has == set(blocks) for has in held_after_each_tick(schedule, nodes, blocks)[-1].values())


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(1, 24))
def test_any_number_of_hosts_gets_all_blocks(num_nodes: int, num_blocks: int) -> None:
    nodes, blocks = range(num_nodes), range(num_blocks)
    schedule = binomial_pipeline(nodes, blocks)
    assert all(has == set(blocks) for has in held_after_each_tick(schedule, nodes, blocks)[-1].values())
    assert len(schedule) < 2 * (math.log2(num_nodes) + num_blocks)


@pytest.mark.parametrize(("num_nodes", "num_blocks", "k"), [(8, 16, 1), (8, 16, 2), (8, 16, 4), (16, 32, 4)])
def test_k_sources_have_a_pipeline_after_a_kth_of_the_time(num_nodes: int, num_blocks: int, k: int) -> None:
    nodes, blocks = range(num_nodes), range(num_blocks)
    schedule = k_way(nodes, blocks, k)
    depth = int(math.log2(num_nodes / k))
    assert len(schedule) == num_blocks + depth - 1
    held = held_after_each_tick(schedule, nodes, blocks, k)
    assert all(has == set(blocks) for has in held[-1].values())
    receivers = [group[1:] for group in groups_of(nodes, k)]
    first = next(
        tick
        for tick, has in enumerate(held, start=1)
        if any(set().union(*(has[node] for node in stages)) == set(blocks) for stages in product(*receivers))
    )
    assert first <= num_blocks / k + depth - 1


def test_groups_and_shares() -> None:
    assert groups_of(range(7), 2) == [[0, 2, 4, 6], [1, 3, 5]]
    assert rotated(range(7), 1, 3) == [1, 4, 2, 5, 0, 3, 6]
    assert binomial_pipeline([9], range(3)) == []
