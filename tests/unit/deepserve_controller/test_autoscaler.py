"""The reactive autoscaler by its known answers: Knative's cases where they apply, the rest computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.core.scaling_views import NO_PANIC, FunctionLoad, Panic, PodsWanted
from deepserve_controller.policies.autoscaler import FitDemand, Reactive

POLICY = Reactive(stable_window_s=30.0, panic_window_s=3.0, panic_threshold=2.0, max_down_rate=2.0)


def load(**given: Any) -> FunctionLoad:
    """One slot a pod, 0 to 100 pods; `pods` are all ready and in use lately unless said otherwise."""
    pods = given.get("pods", 0)
    known = {"queued": 0, "running": 0, "slots": 1, "min_pods": 0, "max_pods": 100, "buffer_pods": 0}
    return FunctionLoad(**{**known, "ready_pods": pods, "recent_pods": pods, **given})


def wanted(now_s: float = 100.0, policy: Reactive = POLICY, **given: Any) -> PodsWanted:
    return policy.decide(load(**given), now_s)


# --- up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "tasks", "pods", "expected"),
    [
        (1.1, 3, 2, 3),  # Knative: rate 1.1, 3 concurrent, 2 pods -> 3 pods
        (10.0, 1001, 1, 10),  # Knative: TestAutoscalerRateLimitScaleUp, the first step
        (10.0, 1001, 10, 100),  # and the next: ten times the pods there are (here also the bound)
        (1.1, 100, 1, 2),  # ceil(1.1)
        (2.0, 5, 0, 2),  # none there counts as one
        (1000.0, 64, 0, 64),
    ],
)
def test_up_by_at_most_the_rate(rate: float, tasks: int, pods: int, expected: int) -> None:
    assert wanted(policy=Reactive(max_up_rate=rate), queued=tasks, pods=pods).pods == expected


def test_a_burst_at_zero_gets_its_pods_at_once_and_starting_ones_are_not_asked_for_again() -> None:
    first = wanted(queued=64, slots=4)
    assert (first.pods, first.reason) == (16, "64 queued + 0 running tasks / 4 slots = 16 pods")
    assert wanted(queued=64, slots=4, pods=16, ready_pods=0, recent_pods=0).pods == 16


@pytest.mark.parametrize(
    ("given", "pods"),
    [
        ({}, 0),
        ({"min_pods": 2}, 2),
        ({"queued": 5, "running": 1, "pods": 1}, 6),
        ({"queued": 5, "running": 2, "slots": 4, "pods": 1}, 2),
        ({"queued": 500}, 100),
        ({"queued": 9, "max_pods": 3}, 3),
        ({"queued": 1, "min_pods": 4}, 4),
        ({"queued": 1, "buffer_pods": 2}, 3),
        ({"running": 4, "pods": 4, "buffer_pods": 2}, 6),
        ({"buffer_pods": 2}, 0),  # nobody calls: no buffer
        ({"pods": 3, "recent_pods": 1, "buffer_pods": 2}, 3),  # between two calls: it stays
        ({"pods": 3, "recent_pods": 0, "buffer_pods": 2}, 0),
    ],
)
def test_bounds_and_buffer(given: dict[str, Any], pods: int) -> None:
    assert wanted(**given).pods == pods


# --- down -----------------------------------------------------------------------------------------------


def test_pods_stay_that_were_in_use_within_the_functions_window() -> None:
    kept = wanted(running=1, pods=8, recent_pods=6)
    assert (kept.pods, kept.reason) == (
        6, "0 queued + 1 running tasks / 1 slots = 1 pods; 6 kept: in use within the window"
    )  # fmt: skip


def test_the_average_of_the_stable_window_keeps_pods_and_never_starts_any() -> None:
    kept = wanted(running=1, pods=8, recent_pods=2, stable_pods=4.2)
    assert kept.pods == 5 and "4.2 in use on average of 30 s" in kept.reason
    assert wanted(running=1, pods=8, recent_pods=2, stable_pods=5.0000000001).pods == 5  # a rounding error is no pod
    assert wanted(running=1, pods=1, stable_pods=7.5).pods == 1


@pytest.mark.parametrize(("pods", "expected"), [(9, 4), (8, 4), (3, 1), (2, 1)])
def test_down_by_at_most_the_rate_while_it_is_called(pods: int, expected: int) -> None:
    """Knative: floor(ready / rate)."""
    assert wanted(running=1, pods=pods, recent_pods=1).pods == expected


def test_a_function_that_nobody_calls_goes_to_zero_whatever_its_averages_say() -> None:
    burst = Panic(90.0, 90.0, 64)
    none = wanted(pods=64, recent_pods=0, stable_pods=40.0, panic=burst)
    assert (none.pods, none.panic) == (0, NO_PANIC)
    assert wanted(pods=64, recent_pods=0, stable_pods=40.0, min_pods=3).pods == 3


# --- panic ----------------------------------------------------------------------------------------------


def test_panic_begins_at_twice_the_ready_pods_and_keeps_the_most_that_was_needed() -> None:
    assert wanted(queued=2, running=1, pods=2).panic == NO_PANIC  # 3 / 2 < 2
    begun = wanted(100.0, queued=3, running=1, pods=2)
    assert begun.panic == Panic(100.0, 100.0, 4)
    more = wanted(101.0, queued=3, running=4, pods=4, panic=begun.panic)
    assert more.panic == Panic(100.0, 100.0, 7)  # 7 / 4 < 2: it grows and is not prolonged
    less = wanted(110.0, running=1, pods=7, recent_pods=1, panic=more.panic)
    assert less.pods == 7 and less.reason.endswith("7 kept: a burst 10 s ago")


def test_panic_ends_a_stable_window_after_demand_was_last_far_above() -> None:
    panic = Panic(100.0, 110.0, 8)
    assert wanted(139.9, running=1, pods=8, recent_pods=1, panic=panic).pods == 8
    over = wanted(140.0, running=1, pods=8, recent_pods=1, panic=panic)
    assert (over.pods, over.panic) == (4, NO_PANIC)
    again = wanted(139.9, queued=15, running=1, pods=8, recent_pods=8, panic=panic)
    assert again.panic == Panic(100.0, 139.9, 16)


def test_panic_by_the_average_of_its_window_where_pods_cannot_follow() -> None:
    assert wanted(running=1, pods=2, panic_pods=3.9).panic.pods == 1
    assert wanted(running=1, pods=2, panic_pods=3.0).panic == NO_PANIC


def test_the_high_water_mark_is_within_the_bound() -> None:
    assert wanted(queued=500, max_pods=10).panic.pods == 10


# --- always ---------------------------------------------------------------------------------------------

LOADS = st.builds(
    lambda tasks, slots, bounds, buffer, pods, ready, recent, averages, panic: load(
        queued=tasks[0], running=tasks[1], slots=slots, min_pods=bounds[0], max_pods=bounds[0] + bounds[1],
        buffer_pods=buffer, pods=pods, ready_pods=min(ready, pods), recent_pods=min(recent, pods),
        stable_pods=averages[0], panic_pods=averages[1], panic=panic,
    ),
    st.tuples(st.integers(0, 300), st.integers(0, 300)), st.integers(1, 32),
    st.tuples(st.integers(0, 8), st.integers(1, 64)), st.integers(0, 4), st.integers(0, 72), st.integers(0, 72),
    st.integers(0, 72), st.tuples(st.floats(0, 72), st.floats(0, 72)),
    st.builds(Panic, st.floats(0, 50), st.floats(50, 100), st.integers(0, 72)),
)  # fmt: skip


@given(LOADS)
def test_never_above_the_bound_nor_below_it_and_never_less_than_what_demand_needs(given_load: FunctionLoad) -> None:
    pods = POLICY.decide(given_load, 100.0).pods
    least = FitDemand().decide(given_load._replace(recent_pods=0), 100.0).pods
    assert given_load.min_pods <= pods <= given_load.max_pods
    assert pods >= least
    assert pods <= max(least, given_load.pods), "an average started a pod"
