"""Scenarios by name: a system, a workload and what may go wrong; all of it follows from the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.specs import CodeRef, FunctionSpec, RetrySpec, Scaling
from deepserve_controller.build import WARM_PODS, build_cluster_manager, build_job_executor
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.events import ControllerStarted, FunctionDefined
from deepserve_controller.simulator import workload
from deepserve_controller.simulator.engine import Occurrence, Simulation
from deepserve_controller.simulator.report import Record
from deepserve_controller.simulator.world import Faults, Times, World

CODE = CodeRef("bundle", "simulated", "simulated")


@dataclass(frozen=True, slots=True)
class Scenario:
    """`end_s` is the simulated time at which the run stops."""

    title: str
    functions: Mapping[str, FunctionSpec]
    arrivals: Iterable[Occurrence]
    end_s: float
    default_max_pods: int = 8
    warm_pods: Mapping[str, int] = field(default_factory=lambda: WARM_PODS)
    times: Times = Times()
    faults: Faults = Faults()


@dataclass(frozen=True, slots=True)
class Run:
    """A scenario that was carried out."""

    cores: Cores
    simulation: Simulation
    record: Record


def simulated_function(name: str, scaling: Scaling, timeout_s: float = 300.0, max_retries: int = 0) -> FunctionSpec:
    retries = RetrySpec(max_retries, initial_delay_s=0.05) if max_retries else None
    return FunctionSpec("simulated", name, "function", CODE, scaling=scaling, timeout_s=timeout_s, retries=retries)


def burst(random: Random) -> Scenario:
    """200 calls at once against a system without a single bound pod; and the same again while it is warm."""
    scaling = Scaling(max_pods=8, scaledown_window_s=2.0)
    first = workload.burst("fn-burst", 200, 0.5, "cold")
    second = workload.burst("fn-burst", 8, 2.0, "warm")
    functions = {"fn-burst": simulated_function("burst", scaling)}
    return Scenario("burst against a cold system", functions, [*first, *second], end_s=10.0)


def steady(random: Random) -> Scenario:
    """A minute of Poisson arrivals, 100 a second, of tasks that take 20 ms."""
    arrivals = workload.poisson("fn-steady", 100.0, 0.5, 60.0, random)
    functions = {"fn-steady": simulated_function("steady", Scaling(max_pods=16, scaledown_window_s=5.0))}
    return Scenario("steady arrivals", functions, list(arrivals), end_s=70.0)


def recursion(random: Random) -> Scenario:
    """20 calls that each call themselves 6 deep, on at most 2 pods."""
    arrivals = workload.burst("fn-deep", 20, 0.5, method="6")
    functions = {"fn-deep": simulated_function("deep", Scaling(max_pods=2, scaledown_window_s=2.0))}
    return Scenario("recursion deeper than there are pods", functions, list(arrivals), end_s=10.0)


def losses(random: Random) -> Scenario:
    """Poisson arrivals of calls, streams and a map while pods die, hang and answer twice."""
    scaling = Scaling(max_pods=6, scaledown_window_s=2.0, max_inputs=2)
    arrivals = [
        *workload.poisson("fn-calls", 40.0, 0.5, 10.0, random, "call"),
        *workload.poisson("fn-streams", 10.0, 0.5, 10.0, random, "stream", "stream"),
        *workload.one_map("fn-calls", 100, 3.0),
    ]
    functions = {
        "fn-calls": simulated_function("calls", scaling, timeout_s=0.5, max_retries=2),
        "fn-streams": simulated_function("streams", scaling, timeout_s=0.5),
    }
    faults = Faults(
        start_fails=0.05,
        bind_dies=0.05,
        task_dies=0.02,
        task_raises=0.05,
        task_hangs=0.02,
        finish_twice=0.1,
        lost_twice=0.5,
    )
    return Scenario("pod losses", functions, arrivals, end_s=40.0, faults=faults)


SCENARIOS: Mapping[str, Callable[[Random], Scenario]] = {
    "burst": burst,
    "steady": steady,
    "recursion": recursion,
    "losses": losses,
}


def run(scenario: Scenario, random: Random) -> Run:
    """Carry out `scenario` on fresh cores. AssertionError where an invariant breaks."""
    ids = IdAllocator()
    cores = Cores(
        build_job_executor(ids, random), build_cluster_manager(ids, scenario.default_max_pods, scenario.warm_pods)
    )
    record = Record()
    world = World(random, scenario.times, scenario.faults, record)
    simulation = Simulation(cores, world.consequences, world.before, world.is_alive)
    simulation.add([Occurrence(0.0, ControllerStarted())])
    simulation.add(Occurrence(0.0, FunctionDefined(name, spec)) for name, spec in scenario.functions.items())
    simulation.add(scenario.arrivals)
    simulation.run(scenario.end_s)
    return Run(cores, simulation, record)


def run_by_name(name: str, seed: int) -> tuple[Scenario, Run]:
    random = Random(seed)
    scenario = SCENARIOS[name](random)
    return scenario, run(scenario, random)
