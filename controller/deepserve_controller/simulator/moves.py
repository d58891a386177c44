"""Moves in simulated time: models of which some can run on one kind of NPU only, where others have come before them.

The controller's own cores decide and carry out: engines that are in the way start elsewhere, their streams go there
(SendPrepare, SendRelease), and then the devices change hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from random import Random

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec, Resources, Scaling
from deepserve_controller.build import build_cluster_manager, build_job_executor
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.device import Device
from deepserve_controller.core.events import ControllerStarted, FunctionDefined, RequestArrived
from deepserve_controller.core.placement_views import PlaceEngine
from deepserve_controller.policies.model_placement import least_startup_time, without_moves
from deepserve_controller.simulator.costs import ASSUMED, slower
from deepserve_controller.simulator.engine import Occurrence, Simulation
from deepserve_controller.simulator.model_engine import Prompt
from deepserve_controller.simulator.model_world import CHECK_EVERY, WORLD, Engines, ModelWorld
from deepserve_controller.simulator.report import Record, markdown_table, percentile
from deepserve_controller.simulator.world import Faults, Times
from flowserve.cost_model import CostModel

DEVICES = tuple(Device("npu", f"{number}", model, "cpu") for number, model in enumerate(["910c"] * 2 + ["910b"] * 4))
ANYWHERE, ONLY_THERE = ("npu:910c", "npu:910b"), ("npu:910c",)
MODELS = {"chat-1": ANYWHERE, "chat-2": ANYWHERE, "chat-3": ANYWHERE, "large-1": ONLY_THERE, "large-2": ONLY_THERE}
RULES: dict[str, PlaceEngine] = {"moves": least_startup_time, "no moves": without_moves}
TOKENIZER = "tokenizer"
CODE = CodeRef("builtin", "", "")
END_S = 1200.0
LOSS_EVERY_S = 30.0
JOURNAL_STEPS = 16
"""A stream's items come so many tokens together."""


@dataclass(frozen=True, slots=True)
class Ask:
    request_id: str
    model: str
    at_s: float
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class MovesRow:
    """Seconds. cold: requests of models that can run in one place only, which waited for an engine there; start: their
    first tokens; other: those of the other models, of all requests. pause: of a stream that has moved, between two
    tokens. wrong: tokens that were lost or came twice."""

    rule: str
    requests: int
    cold: int
    start_p50_s: float
    start_p99_s: float
    other_p99_s: float
    moves: int
    streams: int
    pause_p50_s: float
    pause_max_s: float
    wrong: int
    digest: str = field(default="", repr=False)


def asks_of(random: Random, end_s: float = END_S) -> list[Ask]:
    """Each model is in use for a while, by some people at once, and then not at all."""
    asks: list[Ask] = []
    for model, accelerators in MODELS.items():
        is_large = accelerators == ONLY_THERE
        per_s, on_s, off_s = (0.3, 30.0, 90.0) if is_large else (0.5, 120.0, 60.0)
        at_s = random.uniform(10.0, 60.0) if is_large else 0.0
        while at_s < end_s:
            until_s = at_s + random.expovariate(1.0 / on_s)
            while (at_s := at_s + random.expovariate(per_s)) < min(until_s, end_s):
                base = (len(asks) + 1) << 12
                num_prompt, num_output = random.randint(100, 1000), random.randint(50, 600)
                prompt = Prompt(list(range(base, base + num_prompt + num_output)), num_output)
                asks.append(Ask(f"rq-{len(asks)}", model, at_s, prompt))
            at_s += random.expovariate(1.0 / off_s)
    return asks


def compare_moves(seed: int, cost: CostModel = ASSUMED, end_s: float = END_S) -> list[MovesRow]:
    """Five models on two fast NPUs and four others; the same requests for each rule, and once with pods that die."""
    pace = slower(cost) if cost is not ASSUMED else 1.0
    asks = [replace(ask, at_s=ask.at_s * pace) for ask in asks_of(Random(seed), end_s)]
    rows = [run_moves(rule, asks, Random(seed), place, 0, cost) for rule, place in RULES.items()]
    return [
        *rows,
        run_moves("moves, pods die", asks, Random(seed), least_startup_time, int(end_s / LOSS_EVERY_S), cost),
    ]


def run_moves(
    rule: str, asks: Sequence[Ask], random: Random, place: PlaceEngine, num_losses: int, cost: CostModel = ASSUMED
) -> MovesRow:
    """AssertionError where an invariant breaks or a request gets no answer."""
    ids, record = IdAllocator(), Record()
    manager = build_cluster_manager(
        ids, 4, {"flowserve": 1, "tokenizer": 1}, devices=DEVICES, place=place
    )  # fmt: skip
    cores = Cores(build_job_executor(ids, random), manager)
    prompts = {ask.request_id: ask.prompt for ask in asks}
    world = ModelWorld(random, Times(), Faults(), record, Engines(cost, journal_steps=JOURNAL_STEPS), prompts)
    simulation = Simulation(cores, world.consequences, world.before, world.is_alive, lambda cores: None, CHECK_EVERY)
    simulation.add([Occurrence(0.0, ControllerStarted())])
    simulation.add(Occurrence(0.0, FunctionDefined(name, spec)) for name, spec in specs().items())
    simulation.add(
        Occurrence(ask.at_s, RequestArrived(ask.request_id, "client-1", ask.model, "stream", method="chat"))
        for ask in sorted(asks, key=lambda ask: (ask.at_s, ask.request_id))
    )
    last_s = max(ask.at_s for ask in asks)
    for _ in range(num_losses):
        at_s, share = random.uniform(0.0, last_s), random.random()
        simulation.add([Occurrence(at_s, WORLD, turn=partial(world.lose, share))])
    simulation.run(2.0 * last_s + 600.0)
    cores.check_invariants()
    models = world.models
    missing = prompts.keys() - models.finished_s.keys()
    assert not missing, f"{len(missing)} requests got no answer"
    assert record.outcomes() == {"ok": len(asks)}, record.outcomes()
    first_s = [(ask, models.first_token_s[ask.request_id]) for ask in asks]
    cold_s = [s for ask, s in first_s if MODELS[ask.model] == ONLY_THERE and ask.request_id in models.cold]
    other_s = [s for ask, s in first_s if MODELS[ask.model] == ANYWHERE]
    pauses_s = models.pauses_s or [0.0]
    return MovesRow(
        rule=rule,
        requests=len(asks),
        cold=len(cold_s),
        start_p50_s=round(percentile(cold_s, 50), 1),
        start_p99_s=round(percentile(cold_s, 99), 1),
        other_p99_s=round(percentile(other_s, 99), 1),
        moves=manager.num_device_moves,
        streams=len(models.pauses_s),
        pause_p50_s=round(percentile(pauses_s, 50), 3),
        pause_max_s=round(max(pauses_s), 3),
        wrong=sum(num_wrong(models.said.get(ask.request_id, []), ask.prompt) for ask in asks),
        digest=simulation.digest,
    )


def num_wrong(said: Sequence[int], prompt: Prompt) -> int:
    """Tokens of an answer that its reader has not got, or has got twice, or that are none of its."""
    answer = prompt.token_ids[prompt.num_tokens :]
    if list(said) == answer:
        return 0
    lost = len(set(answer) - set(said))
    return max(1, lost + len(said) - (len(answer) - lost))


def specs() -> dict[str, FunctionSpec]:
    tokenizer = FunctionSpec(
        "models", "tokenizer", "tokenizer", CODE, "tokenizer", scaling=Scaling(min_pods=1, max_pods=1, max_inputs=32)
    )
    models = {
        name: FunctionSpec(
            "models", name, "model", CODE, "flowserve", Resources(accelerators=accelerators),
            Scaling(max_pods=1, scaledown_window_s=10.0, max_inputs=32), timeout_s=3600.0, tokenizer=TOKENIZER,
            model=ModelSpec(name, f"/{name}"), replay="resume",
        )
        for name, accelerators in MODELS.items()
    }  # fmt: skip
    return {TOKENIZER: tokenizer, **models}


HEAD = (
    "rule", "requests", "cold", "start p50 s", "p99 s", "others p99 s",
    "moves", "streams moved", "pause p50 s", "max s", "tokens lost or doubled",
)  # fmt: skip


def moves_table(rows: Sequence[MovesRow]) -> str:
    return markdown_table(HEAD, [list(asdict(row).values())[:-1] for row in rows])
