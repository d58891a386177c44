"""Scenarios of hosted models: traces of real services, and the policies in use beside those of other systems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from random import Random

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.specs import CodeRef, FunctionSpec, Scaling
from deepserve_controller.build import build_cluster_manager, build_job_executor
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.events import ControllerStarted, FunctionDefined, RequestArrived, ScalingChanged
from deepserve_controller.model_policies import ModelPolicy, model_policies
from deepserve_controller.simulator.costs import ASSUMED, slower
from deepserve_controller.simulator.engine import Occurrence, Simulation
from deepserve_controller.simulator.model_engine import Prompt
from deepserve_controller.simulator.model_world import CHECK_EVERY, Engines, ModelRecord, ModelWorld
from deepserve_controller.simulator.report import Record, markdown_table, percentile
from deepserve_controller.simulator.traces import TraceRow, read_trace
from deepserve_controller.simulator.world import Faults, Times
from flowserve.cost_model import CostModel

MODEL, TOKENIZER = "fn-model", "fn-model.tokenizer"
CODE = CodeRef("builtin", "", "")
MAX_PODS = 8


@dataclass(frozen=True, slots=True)
class ModelScenario:
    """`prompts`: by request id, in order; `arrivals_s` of each."""

    title: str
    arrivals_s: Mapping[str, float]
    prompts: Mapping[str, Prompt]
    end_s: float
    engines: Engines = field(default_factory=Engines)
    scaling: Scaling = Scaling(max_pods=MAX_PODS, scaledown_window_s=60.0, max_inputs=32)

    def at_pace(self, cost: CostModel) -> ModelScenario:
        """The same load for engines of that cost: where these are slower, requests are so much rarer."""
        if cost is ASSUMED:
            return self
        pace = slower(cost)
        arrivals_s = {request_id: at_s * pace for request_id, at_s in self.arrivals_s.items()}
        return replace(self, arrivals_s=arrivals_s, end_s=self.end_s * pace + 200.0, engines=Engines(cost))


POLICIES = model_policies()


@dataclass(frozen=True, slots=True)
class ModelRow:
    """What one policy made of a scenario. Seconds; first tokens from the requests' arrivals.

    cold: share of requests that waited for an engine to get ready. hits: share of prompt tokens found in caches.
    """

    policy: str
    requests: int
    first_p50_s: float
    first_p99_s: float
    cold: float
    engine_s: float
    engines: int
    hits: float
    digest: str


def conversation(random: Random) -> ModelScenario:
    """Five minutes of the Azure conversation trace at 0.6 of its rate: prompts of 1,150 tokens, answers of 250."""
    return of_trace("Azure conversation", read_trace("azure_llm_2023_conv", 300.0, 0.6))


def code(random: Random) -> ModelScenario:
    """330 s of the Azure code trace: two minutes of nothing, then a burst of long prompts with short answers."""
    return of_trace("Azure code", read_trace("azure_llm_2023_code", 330.0))


def sessions(random: Random) -> ModelScenario:
    """80 conversations of 5 turns: each prompt begins with all that was said before; lengths are the trace's."""
    rows = read_trace("azure_llm_2023_conv", 1200.0)
    arrivals_s: dict[str, float] = {}
    prompts: dict[str, Prompt] = {}
    for number in range(80):
        at_s, length, base = random.uniform(0.0, 200.0), 0, (number + 1) << 20
        for turn in range(5):
            row = random.choice(rows)
            said, answer = min(row.input_tokens, 1500), max(1, min(row.output_tokens, 300))
            request_id = f"rq-{number}-{turn}"
            token_ids = list(range(base, base + length + said + answer))
            arrivals_s[request_id], prompts[request_id] = at_s, Prompt(token_ids, answer)
            length += said + answer
            at_s += 15.0 + random.expovariate(1 / 20.0)
    return ModelScenario("conversations of several turns", arrivals_s, prompts, max(arrivals_s.values()) + 200.0)


def seldom(random: Random) -> ModelScenario:
    """A model that is asked some things every two and a half minutes, and scales to zero in between."""
    arrivals_s: dict[str, float] = {}
    prompts: dict[str, Prompt] = {}
    for number in range(36):
        use, request_id = number // 3, f"rq-{number}"
        arrivals_s[request_id] = 1.0 + 150.0 * use + random.uniform(0.0, 8.0)
        prompts[request_id] = Prompt(list(range(number << 12, (number << 12) + 250)), 50)
    return ModelScenario("a model that is seldom asked", arrivals_s, prompts, max(arrivals_s.values()) + 200.0)


def of_trace(title: str, rows: Iterable[TraceRow]) -> ModelScenario:
    """No two prompts begin alike: the trace does not say."""
    arrivals_s: dict[str, float] = {}
    prompts: dict[str, Prompt] = {}
    for number, row in enumerate(rows):
        base, length = (number + 1) << 15, row.input_tokens + row.output_tokens
        arrivals_s[f"rq-{number}"] = 1.0 + row.arrival_s
        prompts[f"rq-{number}"] = Prompt(list(range(base, base + length)), row.output_tokens)
    return ModelScenario(title, arrivals_s, prompts, max(arrivals_s.values()) + 200.0)


MODEL_SCENARIOS: Mapping[str, Callable[[Random], ModelScenario]] = {
    "models-code": code,
    "models-conversation": conversation,
    "models-seldom": seldom,
    "models-sessions": sessions,
}


def compare_models(
    name: str, seed: int, policies: Mapping[str, ModelPolicy] = POLICIES, cost: CostModel = ASSUMED
) -> list[ModelRow]:
    """The same requests for each. AssertionError where an invariant breaks or a request gets no answer."""
    scenario = MODEL_SCENARIOS[name](Random(seed)).at_pace(cost)
    return [row_of(name, run_models(scenario, Random(seed), policy)) for name, policy in policies.items()]


@dataclass(frozen=True, slots=True)
class ModelRun:
    cores: Cores
    simulation: Simulation
    record: Record
    models: ModelRecord


def run_models(scenario: ModelScenario, random: Random, policy: ModelPolicy) -> ModelRun:
    ids = IdAllocator()
    manager = build_cluster_manager(
        ids, MAX_PODS, {"flowserve": 1, "tokenizer": 1}, choose_source=policy.choose_source,
        model_autoscaler=policy.autoscaler(), preload=policy.preload,
    )  # fmt: skip
    cores = Cores(build_job_executor(ids, random, model_routing=policy.routing()), manager)
    record = Record()
    world = ModelWorld(random, Times(), Faults(), record, scenario.engines, scenario.prompts)
    simulation = Simulation(
        cores, world.consequences, world.before, world.is_alive, lambda cores: None, CHECK_EVERY
    )  # fmt: skip
    simulation.add([Occurrence(0.0, ControllerStarted())])
    scaling = policy.scale(scenario.scaling)
    for function_id, spec in specs(scaling).items():
        simulation.add([Occurrence(0.0, FunctionDefined(function_id, spec))])
    if policy.tick_s:
        bounds = ScalingChanged(MODEL, scaling.min_pods, scaling.max_pods)
        ticks = int(scenario.end_s / policy.tick_s)
        simulation.add(Occurrence(number * policy.tick_s, bounds) for number in range(1, ticks))
    simulation.add(
        Occurrence(at_s, RequestArrived(request_id, "client-1", MODEL, method="chat"))
        for request_id, at_s in sorted(scenario.arrivals_s.items(), key=lambda item: (item[1], item[0]))
    )
    simulation.run(scenario.end_s)
    world.close(scenario.end_s)
    cores.check_invariants()
    missing = scenario.prompts.keys() - world.models.finished_s.keys()
    assert not missing, f"{len(missing)} requests got no answer"
    assert record.outcomes() == {"ok": len(scenario.prompts)}
    return ModelRun(cores, simulation, record, world.models)


def specs(scaling: Scaling) -> Mapping[str, FunctionSpec]:
    tokenizer = FunctionSpec(
        "models", "tokenizer", "tokenizer", CODE, "tokenizer", scaling=Scaling(min_pods=1, max_pods=2, max_inputs=32)
    )
    model = FunctionSpec(
        "models", "model", "model", CODE, "flowserve", scaling=scaling, timeout_s=3600.0, tokenizer=TOKENIZER
    )
    return {TOKENIZER: tokenizer, MODEL: model}


def row_of(policy: str, done: ModelRun) -> ModelRow:
    models, num_requests = done.models, len(done.models.finished_s)
    first_s = list(models.first_token_s.values())
    return ModelRow(
        policy=policy,
        requests=num_requests,
        first_p50_s=round(percentile(first_s, 50), 3),
        first_p99_s=round(percentile(first_s, 99), 3),
        cold=round(len(models.cold) / num_requests, 4),
        engine_s=round(models.engine_s, 1),
        engines=models.num_engines,
        hits=round(models.hit_tokens / models.prompt_tokens, 4),
        digest=done.simulation.digest,
    )


HEAD = ("policy", "requests", "first token p50 s", "p99 s", "cold", "engine s", "engines", "prefix hits")


def model_table(rows: Iterable[ModelRow]) -> str:
    return markdown_table(HEAD, [list(asdict(row).values())[:-1] for row in rows])
