"""Startup times that learn, and placement against brute force."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.policies.model_placement import HostOption, Instance, Move, least_startup_time
from deepserve_controller.policies.startup_time import StartupTimes

GB = 10**9


def test_a_load_takes_the_queue_and_the_slowest_link_and_the_engine() -> None:
    times = StartupTimes({"disk": 2.0 * GB, "bus": 20.0 * GB}, engine_s=1.0)
    assert times.estimate_s("m", ("disk", "bus"), 4 * GB, 0.0) == pytest.approx(3.0)
    assert times.estimate_s("m", ("bus",), 4 * GB, 0.0) == pytest.approx(1.2), "it lies in the host's memory"
    assert times.estimate_s("m", (), 4 * GB, 0.0) == 1.0
    times.book("load-1", "m", ("disk", "bus"), 4 * GB, 0.0)
    assert times.estimate_s("n", ("disk", "bus"), 2 * GB, 1.0) == pytest.approx(1.0 + 1.0 + 1.0)
    assert times.estimate_s("n", ("bus",), 2 * GB, 1.0) == pytest.approx(1.1), "the bus is hardly used by that load"
    times.ended("load-1", 1.0)
    assert times.estimate_s("n", ("disk", "bus"), 2 * GB, 1.0) == pytest.approx(2.0), "given up: the disk is free"


def test_estimates_approach_what_is_observed() -> None:
    times = StartupTimes({"disk": 4.0 * GB, "bus": 20.0 * GB}, engine_s=5.0)
    for number in range(20):
        at_s = 100.0 * number
        times.book("load", "m", ("disk", "bus"), 4 * GB, at_s)
        times.ended("load", at_s + 4.5, moved_s=4.0)  # 1 GB/s, and half a second for the engine
    assert times.estimate_s("m", ("disk", "bus"), 4 * GB, 1e4) == pytest.approx(4.5, rel=0.02)
    assert times.links["bus"].bytes_per_s == 20.0 * GB, "only the slowest link is judged"
    assert times.engine_s("another") == 5.0
    times.check_invariants()


@given(st.lists(st.tuples(st.sampled_from(["disk", "bus", "net"]), st.integers(0, 8 * GB), st.floats(0.0, 20.0))))
def test_whatever_is_observed_times_are_positive_and_grow_with_bytes(loads: list[tuple[str, int, float]]) -> None:
    times = StartupTimes({"disk": GB, "bus": 10 * GB, "net": GB / 8})
    for number, (link, size_bytes, took_s) in enumerate(loads):
        times.book(f"load-{number}", "m", (link,), size_bytes, float(number))
        if number % 3:
            times.ended(f"load-{number}", number + took_s, moved_s=took_s / 2)
        times.check_invariants()
    for link in times.links:
        small, large = (times.estimate_s("m", (link,), size, 3.0) for size in (GB, 2 * GB))
        assert 0.0 < small < large


# --- placement ------------------------------------------------------------------------------------------


def test_a_free_host_a_faster_one_and_one_that_is_made_free() -> None:
    slow = HostOption("a", 1, 9.0)
    mover = Instance("i-1", 2, 0.5, {"c": 1.0, "a": 3.0})
    fast = HostOption("b", 0, 1.0, [mover])
    spare = HostOption("c", 2, 20.0)
    chosen = least_startup_time([slow, fast, spare], 1)
    assert chosen is not None and (chosen.host, chosen.moves) == ("b", (Move("i-1", "c"),))
    assert chosen.ready_s == 2.5 and "move" in chosen.reason
    assert least_startup_time([slow, fast], 1) == least_startup_time([slow], 1), "nowhere to move to with 2 devices"
    assert least_startup_time([slow], 2) is None
    assert least_startup_time([], 1) is None


INSTANCES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 40), st.integers(0, 40)), min_size=0, max_size=6
).map(
    lambda made: [
        Instance(f"i-{number}", devices, resume / 4, {"else": start / 4})
        for number, (devices, resume, start) in enumerate(made)
    ]
)  # fmt: skip


@given(INSTANCES, st.integers(0, 3), st.integers(1, 6))
def test_with_room_elsewhere_no_other_choice_is_faster(instances: list[Instance], free: int, devices: int) -> None:
    host, other = HostOption("full", free, 2.0, instances), HostOption("else", 1000, 1e9)
    chosen = least_startup_time([host, other], devices)
    assert chosen is not None
    costs = [
        sum(each.resume_s + each.starts_s["else"] for each in moved)
        for size in range(len(instances) + 1)
        for moved in combinations(instances, size)
        if free + sum(each.devices for each in moved) >= devices
    ]
    assert chosen.ready_s == pytest.approx(min([2.0 + cost for cost in costs], default=1e9))


@given(INSTANCES, st.integers(0, 3), st.integers(0, 5), st.integers(1, 5))
def test_no_host_is_overbooked(instances: list[Instance], free: int, room: int, devices: int) -> None:
    chosen = least_startup_time([HostOption("full", free, 2.0, instances), HostOption("else", room, 1e9)], devices)
    if chosen is None:
        return
    by_id = {each.instance_id: each for each in instances}
    moved = [by_id[move.instance_id] for move in chosen.moves]
    assert len(set(chosen.moves)) == len(moved)
    if chosen.host == "full":
        assert free + sum(each.devices for each in moved) >= devices
        assert sum(each.devices for each in moved) <= room
    else:
        assert not moved and room >= devices
