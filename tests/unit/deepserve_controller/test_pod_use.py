"""Pods in use over time: averages and peaks by hand, and against the plain step function."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.core.pod_use import NUM_PIECES, PodUse


def test_averages_of_a_step_function() -> None:
    use = PodUse(30.0)
    use.note(4, 100.0)  # 4 for 10 s
    use.note(1, 110.0)  # 1 for 5 s
    use.note(0, 115.0)
    assert use.average(30.0, 115.0) == pytest.approx((4 * 10 + 1 * 5) / 30)
    assert use.average(10.0, 115.0) == pytest.approx((4 * 5 + 1 * 5) / 10)
    assert use.average(10.0, 120.0) == pytest.approx(1 * 5 / 10)
    assert use.average(30.0, 200.0) == 0.0
    assert use.average(0.0, 112.0) == 0.0  # no window: what is in use now
    assert (use.most(30.0, 115.0), use.most(6.0, 120.0), use.most(1.0, 120.0)) == (4, 1, 0)


def test_a_peak_of_no_length_is_remembered() -> None:
    use = PodUse(30.0, since_s=10.0)
    use.note(1, 20.0)
    use.note(9, 21.0)
    use.note(2, 21.0)
    assert use.most(5.0, 22.0) == 9
    assert use.average(2.0, 22.0) == pytest.approx(1.5)


def test_short_steps_cost_no_memory() -> None:
    use = PodUse(60.0)
    for number in range(100_000):
        use.note(number % 2, number * 0.01)
    use.check_invariants()
    assert len(use.pieces) <= 3 * NUM_PIECES
    assert use.average(60.0, 1000.0) == pytest.approx(0.5, abs=0.01)


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.001, 8.0)), min_size=1, max_size=80), st.floats(0.5, 60.0))
def test_the_average_is_that_of_the_step_function_within_a_piece(
    steps: list[tuple[int, float]], window_s: float
) -> None:
    use, now_s, history = PodUse(60.0), 0.0, []
    for pods, length_s in steps:
        use.note(pods, now_s)
        history.append((now_s, now_s + length_s, pods))
        now_s += length_s
    use.check_invariants()
    start_s = now_s - window_s
    exact = sum(max(0.0, end - max(begin, start_s)) * pods for begin, end, pods in history) / window_s
    piece_s = 60.0 / NUM_PIECES
    assert use.average(window_s, now_s) == pytest.approx(exact, abs=9 * piece_s / window_s)
    most = max(pods for begin, end, pods in history if end > start_s)
    assert use.most(window_s, now_s) >= most
