from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import user_code
from tests.conformance.user_code import Boom


def test_recursion_does_not_wait_for_itself() -> None:
    """On two pods: whoever waits for a call gives its slot back."""
    assert user_code.fib.remote(7) == 13
    assert user_code.async_fib.remote(5) == 5


def test_maps_and_streams_inside() -> None:
    assert user_code.sums_squares.remote(20) == sum(n * n for n in range(20))
    assert user_code.reads_tokens.remote(100) == [f"t{i}" for i in range(100)]


def test_spawned_inside() -> None:
    assert user_code.spawns_inside.remote(5) == (25, "ok")


def test_an_exception_comes_through_its_callers() -> None:
    with pytest.raises(Boom, match="from below"):
        user_code.fails_inside.remote("from below")


def test_many_callers_at_once() -> None:
    assert list(user_code.sums_squares.map([5] * 10)) == [30] * 10


def test_what_is_left_below_ends_with_its_caller(tmp_path: Path) -> None:
    call = user_code.leaves_a_child.spawn(str(tmp_path))
    assert call.get(timeout=60) == "left"
