"""The simulator's scenarios by name and seed; invariants of both cores are checked after every event of a run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest

from deepserve.protocol.specs import Scaling
from deepserve_controller.policies.chunking import by_run_time, one_by_one
from deepserve_controller.simulator import workload
from deepserve_controller.simulator.engine import Occurrence
from deepserve_controller.simulator.report import Record, percentile
from deepserve_controller.simulator.scenarios import SCENARIOS, Run, Scenario, run, run_by_name, simulated_function
from deepserve_controller.simulator.world import Faults


def check_all_is_over(scenario: Scenario, done: Run) -> None:
    """Every request ended exactly once, nobody runs or waits, and only the warm pool is left."""
    record = done.record
    assert record.finished.keys() == record.arrived_s.keys()
    repeated = [request_id for request_id, finishes in record.finished.items() if len(finishes) != 1]
    assert not repeated
    done.cores.check_invariants()
    pods = done.cores.cluster_manager.pods_view()
    assert {pod.state for pod in pods} <= {"warm"}
    least = sum(scenario.warm_pods.values())
    assert least <= len(pods) <= max(least, 4)  # what the warm pool may grow to after cold starts
    assert all(function.queued == 0 for function in done.cores.cluster_manager.functions_view())


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_all_is_over_at_the_end(name: str) -> None:
    scenario, done = run_by_name(name, seed=1)
    check_all_is_over(scenario, done)


@pytest.mark.parametrize("name", ["burst", "losses", "recursion"])
def test_a_seed_gives_one_history(name: str) -> None:
    digests = {seed: run_by_name(name, seed)[1].simulation.digest for seed in (1, 2)}
    assert digests[1] != digests[2]
    for seed, digest in digests.items():
        assert run_by_name(name, seed)[1].simulation.digest == digest


def test_a_seed_gives_the_same_history_in_another_interpreter() -> None:
    """Sets of strings have another order there: nothing may depend on it."""
    command = [sys.executable, "-m", "deepserve_controller.simulator", "losses", "--seed", "3", "--report"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert run_by_name("losses", 3)[1].simulation.digest in printed
    assert "latency" in printed and "warm hits" in printed


def test_chunks_save_most_assignments_and_delay_no_map_of_unequal_inputs() -> None:
    """Beside the baseline, a task for each input: few long inputs among short ones, in the same simulated world."""
    taken = {}
    for name, chunking in (("chunks", by_run_time), ("one by one", one_by_one)):
        scenario = replace(SCENARIOS["unequal_map"](Random(1)), chunking=chunking, faults=Faults())
        done = run(scenario, Random(1))
        check_all_is_over(scenario, done)
        assert done.record.num_items == 5000
        taken[name] = (done.record.num_attempts, done.record.latencies_s[0])
    assert taken["chunks"][0] < taken["one by one"][0] / 5
    assert taken["chunks"][1] < taken["one by one"][1] * 1.1


def test_a_burst_scales_from_zero_to_the_bound_and_back() -> None:
    scenario, done = run_by_name("burst", seed=1)
    record = done.record
    assert record.outcomes() == {"ok": 208}
    # The bound, the warm pool filled again, and grown after the two cold starts before the burst had its template.
    assert record.num_started == 8 + 1 + 1
    assert record.num_warm_hits == 8  # the second burst, within the window
    assert record.num_lost == 0
    # 200 tasks of 10 to 30 ms on 8 pods are at least 0.25 s; the rest is the cold start.
    assert 0.25 < percentile(record.latencies_s, 100) < 1.0
    assert record.pod_seconds(scenario.end_s) < 8 * 5.0 + 3 * scenario.end_s  # and the warm pool


def test_a_higher_bound_never_makes_a_burst_slower() -> None:
    slowest_s = []
    for max_pods in (1, 2, 4, 8, 16):
        functions = {"fn": simulated_function("f", Scaling(max_pods=max_pods, scaledown_window_s=1.0))}
        scenario = Scenario("burst", functions, list(workload.burst("fn", 100, 0.1)), end_s=10.0)
        slowest_s.append(percentile(run(scenario, Random(5)).record.latencies_s, 100))
    assert slowest_s == sorted(slowest_s, reverse=True)


def test_recursion_on_few_pods_does_not_deadlock() -> None:
    _, done = run_by_name("recursion", seed=1)
    assert done.record.outcomes() == {"ok": 20 * 7}
    assert done.record.peak_pods == 2 + 1 + 1  # with the warm pool, grown by one cold start


@pytest.mark.parametrize("first_seed", range(0, 24, 6))
def test_pod_losses_lose_no_request(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 6):
        scenario, done = run_by_name("losses", seed)
        check_all_is_over(scenario, done)
        assert done.record.num_lost > 5


@pytest.mark.parametrize("seed", range(4))
def test_recursion_survives_pods_that_die_and_hang(seed: int) -> None:
    random = Random(seed)
    scaling = Scaling(max_pods=3, scaledown_window_s=1.0)
    functions = {"fn": simulated_function("f", scaling, timeout_s=2.0, max_retries=1)}
    faults = Faults(task_dies=0.05, task_hangs=0.02, finish_twice=0.3)
    arrivals: list[Occurrence] = list(workload.burst("fn", 30, 0.1, method="4"))
    scenario = Scenario("recursion with losses", functions, arrivals, end_s=60.0, faults=faults)
    check_all_is_over(scenario, run(scenario, random))


def test_a_function_that_never_loads_fails_every_request() -> None:
    functions = {"fn": simulated_function("f", Scaling(max_pods=4, scaledown_window_s=1.0))}
    for faults in (Faults(bind_dies=1.0), Faults(bind_fails=1.0), Faults(start_fails=1.0)):
        arrivals = [*workload.burst("fn", 20, 0.1, "first"), *workload.burst("fn", 5, 5.0, "second")]
        warm_pods = {"python": 0}
        scenario = Scenario("broken", functions, arrivals, end_s=20.0, warm_pods=warm_pods, faults=faults)
        done = run(scenario, Random(1))
        check_all_is_over(scenario, done)
        assert done.record.outcomes() == {"startup_failed": 25}


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (0, 50, 90, 99, 100)] == [1.0, 50.0, 90.0, 99.0, 100.0]
    assert percentile([], 50) == 0.0
    assert Record().pod_seconds(5.0) == 0.0


def test_from_one_pod_to_many_each_function_is_loaded_once() -> None:
    """A load takes 1.5 s: the first pod's, then the template's, and no pod waits for another one."""
    _, done = run_by_name("wide", seed=1)
    record = done.record
    assert record.outcomes() == {"ok": 1 + 64 + 64}
    slowest_s = percentile(record.latencies_s, 100)
    assert slowest_s < 1.5 + 1.5  # the snapshot is built when its burst comes; the other template was there already
    views = {view.label: view for view in done.cores.cluster_manager.functions_view()}
    assert {view.pod_source for view in views.values()} == {"forked from its template"}


@pytest.mark.parametrize("seed", range(6))
def test_losses_of_templates_lose_no_request(seed: int) -> None:
    scenario, done = run_by_name("template_losses", seed)
    check_all_is_over(scenario, done)
    assert done.record.outcomes().get("ok", 0) > 100
    assert done.cores.cluster_manager.templates.views() == []
