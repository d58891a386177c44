"""Maps that are spawned: found again, also from another process, while their results are kept."""

from __future__ import annotations

import pytest

import deepserve
from tests.conformance.conftest import Scripts, forget
from tests.conformance.user_code import square

SPAWNS = """
import deepserve

@deepserve.function
def double(x):
    return 2 * x

if __name__ == "__main__":
    print(double.spawn_map(range(500)).id)
"""


def test_a_group_gives_its_results_in_order_and_one_by_one() -> None:
    group = square.spawn_map(range(500))
    assert len(group) == 500 and list(group) == [n * n for n in range(500)]
    assert group[3].get(timeout=60) == 9 and group.progress == (500, 500, 0)
    assert sorted(group.results(order_outputs=False))[-1] == 499 * 499
    assert deepserve.CallGroup.from_id(group.id).get(timeout=60) == group.get()
    forget(group)  # type: ignore[arg-type]


def test_one_input_fails_alone() -> None:
    group = square.spawn_map([1, "two", 3])  # type: ignore[list-item]
    outputs = group.get(timeout=60, return_exceptions=True)
    assert outputs[0::2] == [1, 9] and isinstance(outputs[1], TypeError)
    assert outputs[1].input_index == 1 and group.progress.failed == 1
    forget(group)  # type: ignore[arg-type]


@pytest.mark.deploys
def test_a_group_outlives_the_script_that_spawned_it(scripts: Scripts) -> None:
    group_id = scripts.run(SPAWNS).strip()
    group = deepserve.CallGroup.from_id(group_id)
    assert group.get(timeout=60) == [2 * n for n in range(500)] and len(group) == 500
    forget(group)  # type: ignore[arg-type]
