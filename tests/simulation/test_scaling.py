"""Scaling policies in simulated time: against the baseline, against queueing theory, and what must always hold."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepserve.protocol.specs import Resources, Scaling
from deepserve_controller.core.cores import Cores
from deepserve_controller.simulator import workload
from deepserve_controller.simulator.comparison import Row, compare, table
from deepserve_controller.simulator.engine import Occurrence
from deepserve_controller.simulator.scenarios import Scenario, run, simulated_function
from deepserve_controller.simulator.world import Times

SEEDS = (1, 2)


def rows(name: str, seed: int) -> tuple[Row, Row]:
    baseline, reactive = compare(name, seed)
    assert baseline.requests == reactive.requests
    return baseline, reactive


@pytest.mark.parametrize("name", ["bursts", "slow_bursts", "sawtooth"])
def test_fewer_starts_at_no_worse_waiting(name: str) -> None:
    compared = [rows(name, seed) for seed in SEEDS]
    for baseline, reactive in compared:
        assert reactive.starts <= baseline.starts
        assert reactive.wait_p50_ms <= baseline.wait_p50_ms
        assert reactive.wait_p99_ms <= baseline.wait_p99_ms * 1.1 + 1.0  # the histories draw different times
    assert sum(row.starts for _, row in compared) < 0.96 * sum(row.starts for row, _ in compared)
    assert sum(row.wait_mean_ms for _, row in compared) <= sum(row.wait_mean_ms for row, _ in compared)


@pytest.mark.parametrize("name", ["ramp", "rare", "burst"])
def test_no_more_pods_where_there_is_nothing_to_smooth(name: str) -> None:
    baseline, reactive = rows(name, 1)
    assert (reactive.starts, reactive.wait_p99_ms) == (baseline.starts, baseline.wait_p99_ms)
    assert reactive.pod_s <= baseline.pod_s * 1.01


def test_equal_seeds_give_equal_tables() -> None:
    assert table(compare("rare", 4)) == table(compare("rare", 4))
    assert compare("bursts", 4)[1].digest != compare("bursts", 5)[1].digest


def test_memory_of_a_small_host_is_never_passed() -> None:
    """The invariant is checked after each event; and twelve functions on room for six all get their turn."""
    _, reactive = rows("small_host", 2)
    assert reactive.peak_pods <= 7
    assert reactive.wait_p99_ms < 1000.0


def erlang_c(servers: int, load: float) -> float:
    """Probability of waiting in M/M/c."""
    below = sum(load**k / math.factorial(k) for k in range(servers))
    full = load**servers / math.factorial(servers) * servers / (servers - load)
    return full / (below + full)


@pytest.mark.parametrize(("servers", "per_s"), [(1, 5.0), (4, 25.0)])
def test_the_simulator_agrees_with_queueing_theory(servers: int, per_s: float) -> None:
    """M/M/c: Poisson arrivals, exponential tasks of 0.1 s, a fixed number of pods."""
    mean_s = 0.1
    spec = simulated_function("f", Scaling(min_pods=servers, max_pods=servers))
    random = Random(7)
    arrivals = list(workload.poisson("fn", per_s, 5.0, 800.0, random))
    times = replace(Times(), task_mean_s=mean_s)
    scenario = Scenario("M/M/c", {"fn": spec}, arrivals, end_s=900.0, times=times)
    waits_s = run(scenario, random).record.waits_s
    expected_s = erlang_c(servers, per_s * mean_s) / (servers / mean_s - per_s)
    assert len(waits_s) == len(arrivals)
    assert sum(waits_s) / len(waits_s) == pytest.approx(expected_s, rel=0.15)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    bounds=st.tuples(st.integers(0, 3), st.integers(1, 6)),
    buffer_pods=st.integers(0, 2),
    window_s=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    inputs=st.sampled_from([(1, 0), (3, 0), (4, 2)]),
    memory_mib=st.sampled_from([0, 200]),
)
def test_whatever_is_asked_bounds_hold_and_starting_pods_count(
    seed: int, bounds: tuple[int, int], buffer_pods: int, window_s: float, inputs: tuple[int, int], memory_mib: int
) -> None:
    """Pods that serve or will are never more than max, and never fewer than min once these had time to start."""
    least, most = bounds[0], bounds[0] + bounds[1]
    scaling = Scaling(least, most, buffer_pods, window_s, inputs[0], inputs[1])
    spec = msgspec.structs.replace(simulated_function("f", scaling), resources=Resources(memory_mib=memory_mib))
    random = Random(seed)
    arrivals: list[Occurrence] = [*workload.poisson("fn", 15.0, 1.0, 8.0, random)]
    arrivals += workload.burst("fn", 20, 3.0, "burst")
    usable_mib = 200 * most + 16 if memory_mib else 0
    scenario = Scenario(
        "any", {"fn": spec}, arrivals, end_s=60.0, times=Times(task_s=(0.05, 0.2)), usable_mib=usable_mib
    )
    seen: list[int] = []

    def look(cores: Cores) -> None:
        seen.extend(view.pods for view in cores.cluster_manager.functions_view())

    done = run(scenario, random, on_step=look)
    assert max(seen) <= most
    assert min(seen) >= least, "fewer than min_pods, starting ones counted"
    assert done.record.outcomes() == {"ok": len(done.record.arrived_s)}
    assert done.cores.cluster_manager.functions_view()[0].pods == least, "idle at the end"
