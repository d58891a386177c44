"""So much per minute, and the wait that is told is the wait there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.core.rate_limit import RateLimit


def test_a_pause_fills_it_evenly() -> None:
    limit = RateLimit(60, 0.0)
    for _ in range(60):
        assert limit.wait_s(1, 0.0) == 0
        limit.take(1, 0.0)
    assert limit.remaining(0.0) == 0 and limit.wait_s(1, 0.0) == 1.0
    assert limit.remaining(10.0) == 10 and limit.remaining(1000.0) == 60


@given(st.integers(1, 1000), st.lists(st.tuples(st.floats(0, 100), st.integers(1, 3000)), max_size=40))
def test_never_more_than_a_minutes_worth_beside_what_filled(per_minute: int, requests: list[tuple[float, int]]) -> None:
    limit, now_s, taken = RateLimit(per_minute, 0.0), 0.0, 0
    for pause_s, amount in requests:
        now_s += pause_s
        wait_s = limit.wait_s(amount, now_s)
        assert limit.wait_s(amount, now_s + wait_s + 1e-6) < 1e-6
        if not wait_s:
            limit.take(amount, now_s)
            taken += min(amount, per_minute)
        assert taken <= per_minute * (1 + now_s / 60) + 1e-3


def test_what_was_charged_too_much_comes_back() -> None:
    limit = RateLimit(100, 0.0)
    limit.take(100, 0.0)
    limit.take(-40, 0.0)
    assert limit.remaining(0.0) == 40
    limit.take(500, 0.0)
    assert limit.wait_s(1, 0.0) > 60
