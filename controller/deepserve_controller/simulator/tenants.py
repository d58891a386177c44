"""Sixteen tenants of one model, of which one floods it: fair queueing before the cores, beside one queue for all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from random import Random
from typing import Protocol

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.specs import Scaling
from deepserve_controller.build import build_cluster_manager, build_job_executor
from deepserve_controller.core import actions
from deepserve_controller.core.actions import Action
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.events import ControllerStarted, FunctionDefined, RequestArrived
from deepserve_controller.core.fair_queue import FairQueue
from deepserve_controller.policies.admission_window import admission_window
from deepserve_controller.simulator.engine import Occurrence, Simulation
from deepserve_controller.simulator.model_engine import Prompt
from deepserve_controller.simulator.model_scenarios import MODEL, specs
from deepserve_controller.simulator.model_world import CHECK_EVERY, WORLD, Engines, ModelWorld
from deepserve_controller.simulator.report import Record, markdown_table, percentile
from deepserve_controller.simulator.traces import read_trace
from deepserve_controller.simulator.world import Faults, Times

NUM_TENANTS, NUM_PODS, SLOTS = 16, 2, 16
FLOOD = "tenant-0"
QUANTUM_TOKENS = 512
END_S = 160.0


class Queue(Protocol):
    def __len__(self) -> int: ...
    def push(self, key: str, item: str, cost: int) -> None: ...
    def pop(self) -> tuple[str, str]: ...
    def settle(self, key: str, estimated: int, actual: int) -> None: ...


class OneForAll:
    """In the order of arrival."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, str]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, key: str, item: str, cost: int) -> None:
        self._waiting.append((key, item))

    def pop(self) -> tuple[str, str]:
        return self._waiting.popleft()

    def settle(self, key: str, estimated: int, actual: int) -> None:
        pass


@dataclass(frozen=True, slots=True)
class TenantRow:
    """Seconds to the first token, of all tenants but the one that floods."""

    rule: str
    requests: int
    first_p50_s: float
    first_p99_s: float


class TenantWorld(ModelWorld):
    """Requests wait in `queue` until fewer than the admission window are at the pods, as in the gateway."""

    def __init__(self, random: Random, record: Record, prompts: dict[str, Prompt], queue: Queue) -> None:
        super().__init__(random, Times(), Faults(), record, Engines(num_seats=SLOTS), prompts)
        self._queue = queue
        self._num_admitted = 0

    def ask(self, request_id: str, now_s: float) -> Iterator[Occurrence]:
        self._record.arrived_s[request_id] = now_s
        self._queue.push(tenant_of(request_id), request_id, self._cost(request_id))
        yield from self._admit(now_s)

    def consequences(self, action: Action, now_s: float) -> Iterator[Occurrence]:
        yield from super().consequences(action, now_s)
        if isinstance(action, actions.FinishRequest):
            self._num_admitted -= 1
            cost = self._cost(action.request_id)
            self._queue.settle(tenant_of(action.request_id), cost, cost)
            yield from self._admit(now_s)

    def _cost(self, request_id: str) -> int:
        return len(self._prompts[request_id].token_ids)

    def _admit(self, now_s: float) -> Iterator[Occurrence]:
        ready = sum(pod_id in self._ready_s for pod_id in self._engines)
        window = admission_window(SLOTS, ready * SLOTS, NUM_PODS - ready, NUM_PODS)
        while len(self._queue) and self._num_admitted < window:
            _, request_id = self._queue.pop()
            self._num_admitted += 1
            yield Occurrence(now_s, RequestArrived(request_id, "client-1", MODEL, method="chat"))


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
    """15 tenants alone, then with one that floods: in one queue for all, and with a turn for each."""
    return [
        row_of("alone", seed, FairQueue(QUANTUM_TOKENS), with_flood=False),
        row_of("one queue for all", seed, OneForAll(), with_flood=True),
        row_of("fair queue", seed, FairQueue(QUANTUM_TOKENS), with_flood=True),
    ]


def row_of(rule: str, seed: int, queue: Queue, with_flood: bool) -> TenantRow:
    first_s = first_tokens(seed, queue, with_flood)
    others = [seconds for request_id, seconds in first_s.items() if tenant_of(request_id) != FLOOD]
    return TenantRow(rule, len(others), round(percentile(others, 50), 3), round(percentile(others, 99), 3))


def first_tokens(seed: int, queue: Queue, with_flood: bool) -> dict[str, float]:
    asked = asks_of(Random(seed), with_flood)
    prompts = prompts_of(asked)
    ids, record, random = IdAllocator(), Record(), Random(seed)
    cores = Cores(
        build_job_executor(ids, random), build_cluster_manager(ids, NUM_PODS, {"flowserve": 1, "tokenizer": 1})
    )
    world = TenantWorld(random, record, prompts, queue)
    simulation = Simulation(
        cores, world.consequences, world.before, world.is_alive, lambda cores: None, CHECK_EVERY
    )  # fmt: skip
    simulation.add([Occurrence(0.0, ControllerStarted())])
    scaling = Scaling(min_pods=NUM_PODS, max_pods=NUM_PODS, max_inputs=SLOTS)
    simulation.add(Occurrence(0.0, FunctionDefined(name, spec)) for name, spec in specs(scaling).items())
    for request_id, at_s in asked.items():
        simulation.add([Occurrence(at_s, WORLD, turn=partial(world.ask, request_id))])
    simulation.run(END_S * 3)
    missing = asked.keys() - world.models.finished_s.keys()
    assert not missing, f"{len(missing)} requests got no answer"
    return world.models.first_token_s


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
    head = ("rule", "requests of the others", "first token p50 s", "p99 s")
    return markdown_table(head, [list(asdict(row).values()) for row in rows])
