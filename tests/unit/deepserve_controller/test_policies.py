"""Each policy by its known answers."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.protocol.specs import RetrySpec
from deepserve_controller.core.scaling_views import FunctionLoad, PoolUse
from deepserve_controller.policies.autoscaler import FitDemand
from deepserve_controller.policies.prewarm import ReactivePool
from deepserve_controller.policies.retry import backoff_delay_s
from deepserve_controller.policies.routing import least_loaded


@dataclass
class Executor:
    pod_id: str
    slots: int
    load: int


def test_routing_says_why() -> None:
    routed = least_loaded([Executor("pod-1", 2, 2), Executor("pod-2", 4, 3), Executor("pod-3", 4, 1)])
    assert routed == ("pod-3", "least loaded: 1 of 4 slots")
    assert least_loaded([Executor("pod-1", 1, 1), Executor("pod-2", 1, 2)]) is None
    assert least_loaded([]) is None


@pytest.mark.parametrize(
    ("load", "pods"),
    [
        (FunctionLoad(0, 0, 1, 0, 8, 0), 0),
        (FunctionLoad(0, 0, 1, 2, 8, 3), 2),
        (FunctionLoad(5, 1, 1, 0, 8, 0), 6),
        (FunctionLoad(5, 2, 4, 0, 8, 0), 2),
        (FunctionLoad(1, 0, 4, 0, 8, 2), 3),
        (FunctionLoad(99, 0, 1, 0, 8, 2), 8),
        (FunctionLoad(1, 0, 1, 4, 8, 0), 4),
    ],
)
def test_the_autoscaler_fits_demand_within_bounds(load: FunctionLoad, pods: int) -> None:
    assert FitDemand().decide(load, 0.0).pods == pods


def test_backoff_grows_to_its_bound_and_jitter_keeps_half() -> None:
    spec = RetrySpec(9, initial_delay_s=0.5, backoff_coefficient=2.0, max_delay_s=3.0, jitter=False)
    assert [backoff_delay_s(spec, retry, Random(1)) for retry in (1, 2, 3, 4, 9)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(seed=st.integers(0, 99), retry=st.integers(1, 2000))
def test_jitter_stays_within_bounds_for_any_number_of_retries(seed: int, retry: int) -> None:
    spec = RetrySpec(5000, initial_delay_s=0.5, backoff_coefficient=2.0, max_delay_s=60.0)
    assert 0.25 <= backoff_delay_s(spec, retry, Random(seed)) <= 60.0


@pytest.mark.parametrize(
    ("use", "pods"),
    [
        (PoolUse("python"), 1),
        (PoolUse("flowserve", 50, 50), 0),  # not named: starts on demand
        (PoolUse("python", cold_starts=4), 1),
        (PoolUse("python", cold_starts=5), 2),
        (PoolUse("python", cold_starts=1, taken=2), 3),
        (PoolUse("python", cold_starts=100, taken=9), 4),
    ],
)
def test_the_warm_pool_grows_with_cold_starts_and_takers_within_its_bounds(use: PoolUse, pods: int) -> None:
    assert ReactivePool({"python": 1}, most=4, threshold=4, increment=1).decide(use).pods == pods
