"""Startup times that learn, of loads that queue for links."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.core.startup_times import StartupTimes

GB = 10**9


def both(size_bytes: int) -> dict[str, int]:
    return {"disk": size_bytes, "bus": size_bytes}


def test_a_load_takes_the_queue_and_the_slowest_link_and_the_engine() -> None:
    times = StartupTimes({"disk": 2.0 * GB, "bus": 20.0 * GB}, engine_s=1.0)
    assert times.estimate_s("m", both(4 * GB), 0.0) == pytest.approx(3.0)
    assert times.estimate_s("m", {"bus": 4 * GB}, 0.0) == pytest.approx(1.2), "it lies in the host's memory"
    assert times.estimate_s("m", {}, 0.0) == 1.0
    times.book("load-1", both(4 * GB), 0.0)
    assert times.left_s("load-1", 0.5) == pytest.approx(1.5) and times.left_s("load-2", 0.5) == 0.0
    assert times.estimate_s("n", both(2 * GB), 1.0) == pytest.approx(1.0 + 1.0 + 1.0)
    assert times.estimate_s("n", {"bus": 2 * GB}, 1.0) == pytest.approx(1.1), "the bus is hardly used by that load"
    times.ended("load-1", 1.0)
    assert times.estimate_s("n", both(2 * GB), 1.0) == pytest.approx(2.0), "given up: the disk is free"


def test_those_behind_a_load_that_is_given_up_move_forward() -> None:
    times = StartupTimes({"disk": 1.0 * GB})
    for number in range(3):
        times.book(f"load-{number}", {"disk": 2 * GB}, 0.0)
    assert times.left_s("load-2", 1.0) == pytest.approx(5.0)
    times.ended("load-1", 1.0)
    assert times.left_s("load-2", 1.0) == pytest.approx(3.0), "the first has a second left, it takes two"
    times.ended("load-0", 1.5)
    times.check_invariants()
    assert times.move_s({"disk": GB}, 1.5) == pytest.approx(3.0)
    times.ended("load-2", 1.5)
    assert times.move_s({"disk": GB}, 1.5) == pytest.approx(1.0) and not times.load_ids


def test_an_end_that_is_told_late_moves_nobody_to_before_their_own_beginning() -> None:
    times = StartupTimes({"disk": 1.0 * GB})
    times.book("first", {"disk": 10 * GB}, 0.0)
    times.book("second", {"disk": 2 * GB}, 5.0)
    times.book("third", {"disk": 10 * GB}, 13.0)
    times.ended("first", 2.0, moved_s=2.0)  # an engine that nobody asked meanwhile says so with its next report
    times.check_invariants()
    assert times.left_s("second", 5.0) == pytest.approx(2.0)
    assert times.left_s("third", 14.0) == pytest.approx(9.0)
    assert times.move_s({"disk": GB}, 14.0) == pytest.approx(10.0)


def test_estimates_approach_what_is_observed() -> None:
    times = StartupTimes({"disk": 4.0 * GB, "bus": 20.0 * GB}, engine_s=5.0)
    for number in range(20):
        at_s = 100.0 * number
        times.book("load", both(4 * GB), at_s)
        times.ended("load", at_s + 4.0, moved_s=4.0)  # 1 GB/s, and half a second for the engine
        times.note_engine("m", 0.5)
    assert times.estimate_s("m", both(4 * GB), 1e4) == pytest.approx(4.5, rel=0.02)
    assert times.links["bus"].bytes_per_s == 20.0 * GB, "only the slowest link is judged"
    assert times.engine_s("another") == 5.0
    times.check_invariants()


def test_who_waited_for_the_link_says_how_fast_it_is() -> None:
    times = StartupTimes({"disk": 1.0 * GB})
    times.book("first", {"disk": 2 * GB}, 0.0)
    times.book("second", {"disk": 2 * GB}, 0.0)
    times.ended("first", 2.0, moved_s=2.0)
    times.ended("second", 6.0, moved_s=5.0)  # it began after one second, had one to wait, and then took four
    assert times.links["disk"].bytes_per_s == pytest.approx((1.0 + 0.3 * (0.5 - 1.0)) * GB)


def test_a_link_that_was_shared_is_not_judged() -> None:
    times = StartupTimes({"disk": 1.0 * GB})
    times.book("first", {"disk": 2 * GB}, 0.0)
    times.book("second", {"disk": GB}, 0.0)
    times.ended("second", 2.0, moved_s=2.0)  # both at once, which is as fast: three seconds for all
    times.ended("first", 3.0, moved_s=3.0)
    assert times.links["disk"].bytes_per_s == 1.0 * GB


@given(st.lists(st.tuples(st.sampled_from(["disk", "bus", "net"]), st.integers(0, 8 * GB), st.floats(0.0, 20.0))))
def test_whatever_is_observed_times_are_positive_and_grow_with_bytes(loads: list[tuple[str, int, float]]) -> None:
    times = StartupTimes({"disk": GB, "bus": 10 * GB, "net": GB / 8})
    for number, (link, size_bytes, took_s) in enumerate(loads):
        times.book(f"load-{number}", {link: size_bytes}, float(number))
        if number % 3:
            times.ended(f"load-{number}", number + took_s, moved_s=took_s / 2)
        given_up = f"load-{number // 5 * 3}"
        if given_up in times.load_ids and number % 5 == 4:
            times.ended(given_up, float(number))
        times.check_invariants()
    for link in times.links:
        small, large = (times.estimate_s("m", {link: size}, 3.0) for size in (GB, 2 * GB))
        assert 0.0 < small < large
