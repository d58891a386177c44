"""Placement in simulated time: models on hosts with few devices, which start where they are ready first.

The controller has one host so far, and chooses none: here its `StartupTimes`, with the links of several hosts, and its
`least_startup_time` are compared with the rules that ServerlessLLM's paper discusses (first free device; wait for the
host with the model in memory).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random

from deepserve_controller.core.placement_views import Instance, Placement, PlaceOption, PodWork
from deepserve_controller.core.startup_times import StartupTimes
from deepserve_controller.policies.model_placement import least_startup_time, resume_s
from deepserve_controller.simulator.report import markdown_table, percentile

GB = 10**9
PROMPT_TOKENS_PER_S = 1000.0
RULES = ("least startup time", "without moves", "first free", "wait for locality")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Bytes a second are what links really do; the estimator begins with twice as much, as optimistic tools say."""

    num_hosts: int = 4
    devices: int = 2
    memory_bytes: int = 40 * GB
    disk_bytes_per_s: float = 1.5 * GB
    bus_bytes_per_s: float = 12.0 * GB
    engine_s: float = 1.5


@dataclass(frozen=True, slots=True)
class Ask:
    at_s: float
    model: int
    run_s: float


@dataclass(slots=True, eq=False)
class Running:
    """An engine with a model, for any number of requests. `until_s`: when the last one ends: then it is idle and may
    be dropped."""

    number: int
    model: int
    ready_s: float
    begins_s: float
    until_s: float


@dataclass(slots=True)
class Host:
    engines: list[Running] = field(default_factory=list)
    memory: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """Models in the host's memory, the least recently used first."""


@dataclass(frozen=True, slots=True)
class PlacementRow:
    rule: str
    requests: int
    warm: float
    start_p50_s: float
    start_p99_s: float
    start_mean_s: float
    moves: int
    error_p50_s: float
    """Of the estimated start of an engine, without waiting for a device."""


class PlacementWorld:
    def __init__(self, cluster: Cluster, sizes_bytes: Sequence[int], rule: str, random: Random) -> None:
        self._cluster = cluster
        self._sizes = sizes_bytes
        self._rule = rule
        self._random = random
        self._hosts = {f"host-{number}": Host() for number in range(cluster.num_hosts)}
        rates: dict[str, float] = {}
        for name in self._hosts:
            rates |= {f"{name}/disk": 2 * cluster.disk_bytes_per_s, f"{name}/bus": 2 * cluster.bus_bytes_per_s}
        self._times = StartupTimes(rates, engine_s=cluster.engine_s / 2)
        self._truth = StartupTimes({name: rate / 2 for name, rate in rates.items()}, engine_s=cluster.engine_s)
        self._num_engines = 0
        self.starts_s: list[float] = []
        self.errors_s: list[float] = []
        self.num_warm = self.num_moves = 0

    def serve(self, asks: Sequence[Ask]) -> None:
        """In order of arrival; who finds no device tries again when the next engine falls idle."""
        queue = [(ask.at_s, number, ask) for number, ask in enumerate(asks)]
        heapq.heapify(queue)
        while queue:
            now_s, number, ask = heapq.heappop(queue)
            if not self._start(ask, now_s):
                ends = [e.until_s for host in self._hosts.values() for e in host.engines if e.until_s > now_s]
                heapq.heappush(queue, (min(ends), number, ask))
            self.check_invariants(now_s)

    def _start(self, ask: Ask, now_s: float) -> bool:
        for host in self._hosts.values():
            for engine in host.engines:
                if engine.model == ask.model:
                    begins_s = max(now_s, engine.ready_s)
                    if engine.until_s <= now_s:
                        engine.begins_s = now_s
                    engine.until_s = max(engine.until_s, begins_s + ask.run_s)
                    self.starts_s.append(begins_s - ask.at_s)
                    self.num_warm += 1
                    return True
        placed = self._place(ask.model, now_s)
        if placed is None:
            return False
        free_s = now_s
        for move in placed.moves:
            free_s += self._move(move.instance_id, placed.place, move.to_place, now_s)
        self._drop_idle(placed.place, now_s)
        ready_s = free_s + self._load(ask.model, placed.place, now_s)
        self._add(ask.model, placed.place, ready_s, ready_s, ready_s + ask.run_s)
        self.starts_s.append(ready_s - ask.at_s)
        return True

    def _place(self, model: int, now_s: float) -> Placement | None:
        options = [self._option(name, model, now_s) for name in self._hosts]
        alone = [option._replace(instances=()) for option in options]
        if self._rule == "least startup time":
            asked = options
        elif self._rule == "without moves":
            asked = alone
        elif self._rule == "first free":
            asked = [option for option in alone if option.free_devices][:1]
        else:
            asked = [min(alone, key=lambda option: (option.start_s, -option.free_devices, option.place))]
        placed = least_startup_time(asked, {option.place: option.free_devices for option in options})
        return None if placed.is_wait else placed

    def _option(self, name: str, model: int, now_s: float) -> PlaceOption:
        running = [engine for engine in self._hosts[name].engines if engine.until_s > now_s]
        instances = [
            Instance(
                f"{engine.number}",
                1,
                self._work(engine, now_s),
                {other: self._estimate_s(engine.model, other, now_s) for other in self._hosts if other != name},
            )
            for engine in running
            if engine.begins_s <= now_s
        ]
        free = self._cluster.devices - len(running)
        return PlaceOption(name, 1, free, self._estimate_s(model, name, now_s), instances)

    def _work(self, engine: Running, now_s: float) -> PodWork:
        tokens = int(30.0 * (now_s - engine.begins_s))
        return PodWork(1, tokens, True, prompt_tokens_per_s=PROMPT_TOKENS_PER_S)

    def _resume_s(self, engine: Running, now_s: float) -> float:
        return resume_s(self._work(engine, now_s))

    def _path(self, model: int, name: str) -> dict[str, int]:
        links = ["bus"] if model in self._hosts[name].memory else ["disk", "bus"]
        return {f"{name}/{link}": self._sizes[model] for link in links}

    def _estimate_s(self, model: int, name: str, now_s: float) -> float:
        return self._times.estimate_s(str(model), self._path(model, name), now_s)

    def _load(self, model: int, name: str, now_s: float) -> float:
        """Seconds that it takes in truth; the estimator learns of them."""
        path = self._path(model, name)
        estimate_s = self._estimate_s(model, name, now_s)
        noise = self._random.uniform(0.9, 1.1)
        took_s = self._truth.estimate_s("", path, now_s) * noise
        moved_s = took_s - self._cluster.engine_s * noise
        self.errors_s.append(abs(took_s - estimate_s))
        load_id = f"load-{len(self.errors_s)}"
        for times in (self._times, self._truth):
            times.book(load_id, path, now_s)
        self._truth.ended(load_id, now_s + self._truth.left_s(load_id, now_s))
        self._times.ended(load_id, now_s + moved_s, moved_s)
        self._times.note_engine(str(model), took_s - moved_s)
        self._remember(model, name)
        return took_s

    def _remember(self, model: int, name: str) -> None:
        memory = self._hosts[name].memory
        memory[model] = None
        memory.move_to_end(model)
        while sum(self._sizes[each] for each in memory) > self._cluster.memory_bytes and len(memory) > 1:
            memory.popitem(last=False)

    def _move(self, number: str, from_host: str, to_host: str, now_s: float) -> float:
        """The request goes on there, later by what computing its tokens again takes."""
        engine = next(each for each in self._hosts[from_host].engines if f"{each.number}" == number)
        self._hosts[from_host].engines.remove(engine)
        self._drop_idle(to_host, now_s)
        seconds = self._load(engine.model, to_host, now_s) + self._resume_s(engine, now_s)
        self._add(engine.model, to_host, now_s, engine.begins_s, engine.until_s + self._resume_s(engine, now_s))
        self.num_moves += 1
        return seconds

    def _add(self, model: int, name: str, ready_s: float, begins_s: float, until_s: float) -> None:
        self._num_engines += 1
        self._hosts[name].engines.append(Running(self._num_engines, model, ready_s, begins_s, until_s))

    def _drop_idle(self, name: str, now_s: float) -> None:
        """One device is wanted: the engine that has been idle longest goes, if all are taken."""
        engines = self._hosts[name].engines
        if len(engines) >= self._cluster.devices:
            engines.remove(min(engines, key=lambda engine: engine.until_s))

    def check_invariants(self, now_s: float) -> None:
        self._times.check_invariants()
        for name, host in self._hosts.items():
            assert len(host.engines) <= self._cluster.devices, f"{name} has {len(host.engines)} engines"


def asks_of(random: Random, num_models: int, per_s: float, end_s: float) -> list[Ask]:
    """Bursty (gamma gaps with a coefficient of variation of 8) and skewed (Zipf), as ServerlessLLM's evaluation."""
    weights = [1.0 / (rank + 1) for rank in range(num_models)]
    asks, at_s, shape = [], 0.0, 1 / 64
    while (at_s := at_s + random.gammavariate(shape, 1 / (per_s * shape))) < end_s:
        model = random.choices(range(num_models), weights)[0]
        asks.append(Ask(at_s, model, min(60.0, random.expovariate(1 / 8.0) + 0.5)))
    return asks


def compare_placement(seed: int) -> list[PlacementRow]:
    """20 models of 2 to 26 GB on 4 hosts with 2 devices each; the same requests for each rule."""
    random = Random(seed)
    sizes = [round(GB * random.choice((2.5, 5.0, 13.0, 26.0))) for _ in range(20)]
    asks = asks_of(random, len(sizes), 0.2, 4000.0)
    rows = []
    for rule in RULES:
        world = PlacementWorld(Cluster(), sizes, rule, Random(seed))
        world.serve(asks)
        starts_s = world.starts_s
        rows.append(
            PlacementRow(
                rule,
                len(starts_s),
                round(world.num_warm / len(starts_s), 3),
                round(percentile(starts_s, 50), 2),
                round(percentile(starts_s, 99), 1),
                round(sum(starts_s) / len(starts_s), 2),
                world.num_moves,
                round(percentile(world.errors_s, 50), 3),
            )  # fmt: skip
        )
    return rows


def placement_table(rows: Sequence[PlacementRow]) -> str:
    head = ("rule", "requests", "warm", "start p50 s", "p99 s", "mean s", "moves", "estimate off by p50 s")
    return markdown_table(head, [list(asdict(row).values()) for row in rows])
