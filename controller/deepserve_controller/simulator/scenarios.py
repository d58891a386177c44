"""Scenarios by name: a system, a workload and what may go wrong; all of it follows from the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

import msgspec

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.specs import CodeRef, FunctionSpec, Resources, RetrySpec, Scaling
from deepserve_controller.build import AUTOSCALER, WARM_PODS, build_cluster_manager, build_job_executor
from deepserve_controller.core.chunk_views import Chunking
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.events import ControllerStarted, FunctionDefined
from deepserve_controller.core.scaling_views import Autoscaler
from deepserve_controller.policies.chunking import by_run_time
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
    chunking: Chunking = by_run_time
    faults: Faults = Faults()
    usable_mib: int = 0
    """Memory of the host that pods may have; 0: no bound."""


@dataclass(frozen=True, slots=True)
class Run:
    """A scenario that was carried out."""

    cores: Cores
    simulation: Simulation
    record: Record


def simulated_class(name: str, scaling: Scaling) -> FunctionSpec:
    """With a snapshot."""
    return FunctionSpec("simulated", name, "class", CODE, scaling=scaling, snap=True)


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


def unequal_map(random: Random) -> Scenario:
    """A map of 5,000 inputs on 4 pods: 50 µs each, but one in 200 takes 1000 to 2000 times as long; pods die."""
    scaling = Scaling(max_pods=4, scaledown_window_s=2.0)
    functions = {"fn-map": simulated_function("map", scaling, max_retries=2)}
    times = Times(task_s=(0.00002, 0.00008), long_share=0.005, long_s=(0.05, 0.1))
    arrivals = workload.one_map("fn-map", 5000, 2.0)
    faults = Faults(task_dies=0.01, task_raises=0.001)
    return Scenario("a map of unequal inputs", functions, list(arrivals), end_s=20.0, times=times, faults=faults)


def bursts(random: Random) -> Scenario:
    """Every 20 s 32 calls at once of a function that is called once a second besides; its pods may idle for 5 s."""
    arrivals = list(workload.poisson("fn-bursts", 1.0, 0.5, 120.0, random, "trickle"))
    for number in range(6):
        arrivals += workload.burst("fn-bursts", 32, 5.0 + 20.0 * number, f"burst-{number}")
    functions = {"fn-bursts": simulated_function("bursts", Scaling(max_pods=40, scaledown_window_s=5.0))}
    return Scenario("bursts on a trickle", functions, arrivals, end_s=180.0, times=Times(task_s=(0.2, 0.4)))


def slow_bursts(random: Random) -> Scenario:
    """As `bursts`, of a function that takes 1 to 2 s to load in a pod."""
    scenario = bursts(random)
    times = Times(task_s=(0.2, 0.4), bind_s=(1.0, 2.0))
    return replace(scenario, title="bursts on a trickle, slow to load", times=times)


def sawtooth(random: Random) -> Scenario:
    """Load that grows for 20 s from nothing to 40 calls a second (ten pods) and falls back at once, six times."""
    arrivals = workload.varying("fn-saw", lambda at_s: 1.0 + 2.0 * (at_s % 20.0), 41.0, 0.5, 120.0, random)
    functions = {"fn-saw": simulated_function("saw", Scaling(max_pods=32, scaledown_window_s=5.0))}
    times = Times(task_s=(0.2, 0.3), bind_s=(0.2, 0.4))
    return Scenario("sawtooth", functions, list(arrivals), end_s=180.0, times=times)


def ramp(random: Random) -> Scenario:
    """One minute up to 60 calls a second (15 pods), one minute down again."""
    arrivals = workload.varying("fn-ramp", lambda at_s: 60.0 - abs(at_s - 60.0), 60.0, 0.5, 120.0, random)
    functions = {"fn-ramp": simulated_function("ramp", Scaling(max_pods=64, scaledown_window_s=10.0))}
    return Scenario("ramp", functions, list(arrivals), end_s=180.0, times=Times(task_s=(0.2, 0.3)))


def rare(random: Random) -> Scenario:
    """Six calls at once every 30 s and nothing between: pods that may idle for 5 s must go, whatever the policy."""
    arrivals: list[Occurrence] = []
    for number in range(5):
        arrivals += workload.burst("fn-rare", 6, 1.0 + 30.0 * number, f"rare-{number}")
    functions = {"fn-rare": simulated_function("rare", Scaling(max_pods=8, scaledown_window_s=5.0))}
    return Scenario("rare calls, scaled to zero", functions, arrivals, end_s=240.0)


def small_host(random: Random) -> Scenario:
    """Twelve functions whose pods have 256 MiB each, on a host with room for six of them."""
    functions: dict[str, FunctionSpec] = {}
    arrivals: list[Occurrence] = []
    for number in range(12):
        name = f"fn-{number}"
        spec = simulated_function(name, Scaling(max_pods=4, scaledown_window_s=20.0))
        functions[name] = msgspec.structs.replace(spec, resources=Resources(memory_mib=256))
        arrivals += workload.poisson(name, 0.5, 0.5, 60.0, random, f"rq-{number}")
    arrivals.sort(key=lambda occurrence: occurrence.at_s)
    times = Times(task_s=(0.1, 0.3))
    return Scenario("many functions on a small host", functions, arrivals, 120.0, times=times, usable_mib=6 * 256 + 64)


def wide(random: Random) -> Scenario:
    """From one pod to 64: a function that takes 1.5 s to import and a class with a snapshot, each called by 64 at once.

    Loading in each pod shares two cores: 64 imports of 1.5 s take 48 s there, one takes 1.5 s.
    """
    scaling = Scaling(max_pods=64, scaledown_window_s=2.0)
    functions = {"fn-wide": simulated_function("wide", scaling), "fn-snap": simulated_class("snap", scaling)}
    arrivals = [
        *workload.burst("fn-wide", 1, 0.5, "first"),
        *workload.burst("fn-wide", 64, 5.0, "many"),
        *workload.burst("fn-snap", 64, 5.0, "snap"),
    ]
    times = Times(bind_s=(1.5, 1.5), task_s=(0.5, 0.5))
    return Scenario("from one pod to 64", functions, arrivals, end_s=20.0, times=times)


def template_losses(random: Random) -> Scenario:
    """Bursts of a class with a snapshot while its templates die, are refused and fail, and its pods die."""
    scaling = Scaling(max_pods=8, scaledown_window_s=0.5)
    functions = {f"fn-snap-{number}": simulated_class(f"snap-{number}", scaling) for number in range(12)}
    arrivals: list[Occurrence] = []
    for number, function_id in enumerate(functions):
        for turn in range(4):
            arrivals += workload.burst(function_id, 10, 0.5 + number * 0.3 + turn * 4.0, f"{number}.{turn}")
    faults = Faults(
        start_fails=0.05,
        bind_dies=0.1,
        bind_fails=0.05,
        task_dies=0.02,
        template_dies=0.3,
        template_refused=0.1,
        lost_twice=0.5,
    )
    return Scenario("losses of templates", functions, arrivals, end_s=40.0, faults=faults)


SCENARIOS: Mapping[str, Callable[[Random], Scenario]] = {
    "burst": burst,
    "bursts": bursts,
    "losses": losses,
    "ramp": ramp,
    "rare": rare,
    "recursion": recursion,
    "sawtooth": sawtooth,
    "slow_bursts": slow_bursts,
    "small_host": small_host,
    "steady": steady,
    "unequal_map": unequal_map,
    "wide": wide,
    "template_losses": template_losses,
}


def run(
    scenario: Scenario,
    random: Random,
    autoscaler: Autoscaler = AUTOSCALER,
    on_step: Callable[[Cores], None] = lambda cores: None,
) -> Run:
    """Carry out `scenario` on fresh cores; `on_step` looks at them after each event.

    AssertionError where an invariant breaks.
    """
    ids = IdAllocator()
    cluster_manager = build_cluster_manager(
        ids, scenario.default_max_pods, scenario.warm_pods, usable_mib=scenario.usable_mib, autoscaler=autoscaler
    )
    cores = Cores(build_job_executor(ids, random, chunking=scenario.chunking), cluster_manager)
    record = Record()
    world = World(random, scenario.times, scenario.faults, record)
    simulation = Simulation(cores, world.consequences, world.before, world.is_alive, on_step)
    simulation.add([Occurrence(0.0, ControllerStarted())])
    simulation.add(Occurrence(0.0, FunctionDefined(name, spec)) for name, spec in scenario.functions.items())
    simulation.add(scenario.arrivals)
    simulation.run(scenario.end_s)
    return Run(cores, simulation, record)


def run_by_name(name: str, seed: int, autoscaler: Autoscaler = AUTOSCALER) -> tuple[Scenario, Run]:
    random = Random(seed)
    scenario = SCENARIOS[name](random)
    return scenario, run(scenario, random, autoscaler)
