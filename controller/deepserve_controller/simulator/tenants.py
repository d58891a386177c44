"""Sixteen tenants of one model, of which one floods it: fair queueing before the cores, beside one queue for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from random import Random

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.specs import Scaling
from deepserve_controller.build import build_cluster_manager, build_job_executor
from deepserve_controller.core import actions
from deepserve_controller.core.actions import Action
from deepserve_controller.core.admission_queue import AdmissionQueue, Window
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.events import ControllerStarted, FunctionDefined, RequestArrived
from deepserve_controller.policies.admission_window import admission_window
from deepserve_controller.simulator.engine import Occurrence, Simulation
from deepserve_controller.simulator.model_engine import Prompt
from deepserve_controller.simulator.model_scenarios import MODEL, specs
from deepserve_controller.simulator.model_world import CHECK_EVERY, WORLD, Engines, ModelRecord, ModelWorld
from deepserve_controller.simulator.report import Record, markdown_table, percentile
from deepserve_controller.simulator.traces import read_trace
from deepserve_controller.simulator.world import Faults, Times

NUM_TENANTS, NUM_PODS, SEATS = 16, 2, 16
FLOOD = "tenant-0"
QUANTUM_TOKENS = 512
END_S = 160.0
NUM_DRAWS = 3
"""Of the others' arrivals: of one of them the p99 would be the slowest request but none."""


@dataclass(frozen=True, slots=True)
class Rule:
    """has_keys: each tenant is a key of its own. takes_seats: who is below his share is let in at once."""

    has_keys: bool = True
    takes_seats: bool = True


RULES = {
    "one queue for all": Rule(has_keys=False, takes_seats=False),
    "turns at the gateway": Rule(takes_seats=False),
    "and in the engine": Rule(),
}


@dataclass(frozen=True, slots=True)
class TenantRow:
    """Seconds to the first token, of all tenants but the one that floods; and when all had all their answers,
    the mean of the draws."""

    rule: str
    requests: int
    first_p50_s: float
    first_p99_s: float
    all_done_s: float


class TenantWorld(ModelWorld):
    """Requests wait until the gateway's queue admits them."""

    def __init__(self, random: Random, record: Record, prompts: dict[str, Prompt], rule: Rule) -> None:
        super().__init__(random, Times(), Faults(), record, Engines(num_seats=SEATS), prompts)
        self._rule = rule
        self._queue = AdmissionQueue[str](QUANTUM_TOKENS)

    def ask(self, request_id: str, now_s: float) -> Iterator[Occurrence]:
        self._record.arrived_s[request_id] = now_s
        self._queue.push(self._key(request_id), request_id, self._cost(request_id))
        yield from self._admit(now_s)

    def consequences(self, action: Action, now_s: float) -> Iterator[Occurrence]:
        yield from super().consequences(action, now_s)
        if isinstance(action, actions.FinishRequest):
            cost = self._cost(action.request_id)
            self._queue.leave(self._key(action.request_id), cost, cost)
            self._queue.check_invariants()
            yield from self._admit(now_s)

    def _key(self, request_id: str) -> str:
        return tenant_of(request_id) if self._rule.has_keys else "all"

    def _cost(self, request_id: str) -> int:
        return len(self._prompts[request_id].token_ids)

    def _admit(self, now_s: float) -> Iterator[Occurrence]:
        ready = sum(pod_id in self._ready_s for pod_id in self._engines)
        window = admission_window(SEATS, ready, NUM_PODS - ready, NUM_PODS)
        if not self._rule.takes_seats:
            window = Window(window.open, window.open)
        for _, request_id, turn in self._queue.admit(window):
            if self._rule.takes_seats:
                self._turns[request_id] = turn
            is_ahead = self._turns.get(request_id, 0) < 0
            arrived = RequestArrived(request_id, "client-1", MODEL, method="chat", is_ahead=is_ahead)
            yield Occurrence(now_s, arrived)


def tenant_of(request_id: str) -> str:
    return request_id.rpartition("/")[0]


def asks_of(random: Random, with_flood: bool) -> dict[str, float]:
    """By request id, when: one request in 20 s of each tenant; from 40 s on, for 30 s, 20 a second of the one that
    floods."""
    asked: dict[str, float] = {}
    for number in range(1, NUM_TENANTS):
        at_s, count = 10.0 + random.expovariate(0.05), 0
        while at_s < 120.0:
            asked[f"tenant-{number}/{count}"] = at_s
            at_s, count = at_s + random.expovariate(0.05), count + 1
    if with_flood:
        asked |= {f"{FLOOD}/{number}": 40.0 + number / 20.0 for number in range(600)}
    return asked


def compare_tenants(seed: int) -> list[TenantRow]:
    """15 tenants alone, then with one that floods, by each rule."""
    flooded = [row_of(name, seed, rule, with_flood=True) for name, rule in RULES.items()]
    return [row_of("alone", seed, RULES["and in the engine"], with_flood=False), *flooded]


def row_of(name: str, seed: int, rule: Rule, with_flood: bool) -> TenantRow:
    others: list[float] = []
    done_s: list[float] = []
    for draw in range(NUM_DRAWS):
        models = run_tenants(seed + 1000 * draw, rule, with_flood)
        first_s = models.first_token_s.items()
        others += [seconds for request_id, seconds in first_s if tenant_of(request_id) != FLOOD]
        done_s.append(max(models.finished_s.values()))
    p50_s, p99_s = (round(percentile(others, share), 3) for share in (50, 99))
    return TenantRow(name, len(others), p50_s, p99_s, round(sum(done_s) / NUM_DRAWS, 1))


def run_tenants(seed: int, rule: Rule, with_flood: bool) -> ModelRecord:
    asked = asks_of(Random(seed), with_flood)
    prompts = prompts_of(asked)
    ids, record, random = IdAllocator(), Record(), Random(seed)
    cores = Cores(
        build_job_executor(ids, random), build_cluster_manager(ids, NUM_PODS, {"flowserve": 1, "tokenizer": 1})
    )
    world = TenantWorld(random, record, prompts, rule)
    simulation = Simulation(
        cores, world.consequences, world.before, world.is_alive, lambda cores: None, CHECK_EVERY
    )  # fmt: skip
    simulation.add([Occurrence(0.0, ControllerStarted())])
    scaling = Scaling(min_pods=NUM_PODS, max_pods=NUM_PODS, max_inputs=SEATS)
    simulation.add(Occurrence(0.0, FunctionDefined(name, spec)) for name, spec in specs(scaling).items())
    for request_id, at_s in asked.items():
        simulation.add([Occurrence(at_s, WORLD, turn=partial(world.ask, request_id))])
    simulation.run(END_S * 3)
    missing = asked.keys() - world.models.finished_s.keys()
    assert not missing, f"{len(missing)} requests got no answer"
    return world.models


def prompts_of(request_ids: Sequence[str] | dict[str, float]) -> dict[str, Prompt]:
    """Lengths of the conversation trace, prompts of at most 2,000 tokens; the same for a request with and without the
    flood."""
    rows = read_trace("azure_llm_2023_conv")
    prompts = {}
    for number, request_id in enumerate(request_ids):
        row = rows[number * 7 % len(rows)]
        length, base = min(row.input_tokens, 2000) + row.output_tokens, (number + 1) << 13
        prompts[request_id] = Prompt(list(range(base, base + length)), row.output_tokens)
    return prompts


def tenants_table(rows: Sequence[TenantRow]) -> str:
    head = ("rule", "requests of the others", "first token p50 s", "p99 s", "all done s")
    return markdown_table(head, [list(asdict(row).values()) for row in rows])
