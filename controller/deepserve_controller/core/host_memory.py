"""HostMemory: whether one more pod fits into the memory of the host."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.memory_claims import (
    SHARES,
    MemoryClaim,
    MemoryClaims,
    MemoryNeed,
    assumed_mib,
    divide,
)
from deepserve_controller.core.memory_views import ChooseParking, IdlePod, Parking
from deepserve_controller.core.pod_record import PodRecord

if TYPE_CHECKING:
    from deepserve_controller.core.function_templates import FunctionTemplates

ASLEEP_SHARE = 0.4
"""Of what a pod takes awake beside its KV, which it gives back: of a 0.6B model at 8 bits 235 of 620 MB, most of it
weights in the page cache."""
END = Parking(0, "")
TURN_S = 30.0
"""Who has no pod waits so long for one that falls idle; then a busy function, even of one pod, lets it have a turn."""


class HostMemory:
    """Adds up the claims of all pods that are not gone. `usable_mib` 0: there is no bound.

    Weights that pods share count once for each model: in its template, or, where each pod loads for itself, by
    `note_weights`.
    """

    def __init__(
        self, pods: Mapping[str, PodRecord], usable_mib: int, templates: FunctionTemplates, park: ChooseParking
    ) -> None:
        """`templates`: each takes what a pod without KV takes, though they share most of it, and what it has loaded."""
        self._pods = pods
        self._templates = templates
        self._park = park
        self.claims = MemoryClaims()
        self.usable_mib = usable_mib
        self._weights_mib: dict[str, int] = {}
        """By function, of models whose pods load them for themselves."""
        self._overdrawn_mib = 0
        """What pods that were woken took beyond that, when the last one was; or what came out larger than assumed."""

    # --- what one pod takes ---------------------------------------------------------------------------

    def need_mib(self, environment: str, memory_mib: int) -> int:
        return memory_mib or assumed_mib(environment)

    def need(self, pool: FunctionPool, is_own_load: bool = False) -> MemoryNeed:
        """Of its next pod. is_own_load: of one that loads a model for itself. Where nothing is known of that, it gets
        what is there up to an eighth of all, and says what it took of it."""
        need = self.claims.need(pool.function_id, pool.spec)
        if is_own_load and pool.spec.kind == "model" and not self._is_told(pool):
            return MemoryNeed(need.base_mib, 1, max(1, self.usable_mib // SHARES - need.base_mib))
        return need

    def claim(self, pool: FunctionPool, is_own_load: bool, freed_mib: int = 0) -> MemoryClaim | None:
        """Of its next pod, where that is ordered now; None where there is too little left for it. freed_mib: what such
        a pod has already, of none yet."""
        need = self.need(pool, is_own_load)
        if not self.usable_mib:
            return MemoryClaim(need.base_mib, need.kv_mib if self._is_told(pool) else 0)
        if not need.kv_mib and need.base_mib <= freed_mib:
            return MemoryClaim(need.base_mib)
        left_mib = self.usable_mib - self.used_mib() + freed_mib
        return divide(need, left_mib, pool.max_pods - len(pool.pods), self.usable_mib)

    def wanted_mib(self, pool: FunctionPool, is_own_load: bool, spare_mib: int) -> int:
        """What its next pod would claim if `spare_mib` were free besides; what it needs at least, where that is too
        little."""
        need = self.need(pool, is_own_load)
        left_mib = self.usable_mib - self.used_mib() + spare_mib
        claim = divide(need, left_mib, pool.max_pods - len(pool.pods), self.usable_mib)
        return claim.total_mib if claim is not None else need.least_mib

    def process_mib(self, spec: FunctionSpec) -> int:
        """Of a template beside what it holds, or of a pod without KV of which nothing more is known."""
        return self.need_mib(spec.environment, spec.resources.memory_mib)

    def template_mib(self, pool: FunctionPool) -> int:
        """Of its template's process, and of what that holds or would."""
        return self.process_mib(self._templates.spec_of(pool)) + self._templates.weights_mib(pool)

    def most_weights_mib(self, pool: FunctionPool) -> float:
        """That the empty host could hold for it."""
        if not self.usable_mib:
            return math.inf
        return max(0, self.usable_mib - self.process_mib(pool.spec) - self.need(pool).least_mib)

    def _is_told(self, pool: FunctionPool) -> bool:
        return bool(pool.spec.resources.memory_mib) or self.claims.knows(pool.function_id)

    # --- what all take --------------------------------------------------------------------------------

    def missing_mib(self, need_mib: int) -> int:
        """What must become free before so much may be taken; not positive where it is free now."""
        return self.used_mib() + need_mib - self.usable_mib if self.usable_mib else 0

    def used_mib(self) -> int:
        specs = self._templates.specs()
        in_templates = sum(self.process_mib(spec) for spec in specs)
        taken_mib = self.total_mib(self._pods.values()) + in_templates + self._templates.held_mib()
        return taken_mib + (self._own_weights_mib() if self._weights_mib else 0)

    def _own_weights_mib(self) -> int:
        held = {pod.function_id for pod in self._pods.values()} & self._weights_mib.keys()
        return sum(self._weights_mib[function_id] for function_id in held if not self._templates.has(function_id))

    def own_weights_mib(self, function_id: str) -> int:
        """Of a model whose pods load for themselves; 0 while it has none."""
        is_there = any(pod.function_id == function_id for pod in self._pods.values())
        return self._weights_mib.get(function_id, 0) if is_there else 0

    def note_weights(self, function_id: str, size_mib: int) -> None:
        """Of a model whose pods load them into the host's memory for themselves, and share them there."""
        self._weights_mib[function_id] = size_mib

    def forget(self, function_id: str) -> None:
        self.claims.forget(function_id)
        self._weights_mib.pop(function_id, None)

    def leaving_mib(self) -> int:
        """What pods hold that were told to end, and templates that nobody uses then."""
        leaving = self._leaving()
        return self.total_mib(leaving.values()) + self._freed_mib(leaving.keys())

    def _freed_mib(self, leaving: Set[str]) -> int:
        """By templates that nobody uses when these pods, by id, are gone."""
        found = (
            item for item in self._templates.views()
            if item.pods and item.pods <= leaving and (item.state == "ending" or item.pool.pods.keys() <= leaving)
        )  # fmt: skip
        return sum(item.held_mib + self.process_mib(item.spec) for item in found)

    def _leaving(self) -> dict[str, PodRecord]:
        return {pod_id: pod for pod_id, pod in self._pods.items() if pod.state in ("draining", "stopped")}

    def total_mib(self, pods: Iterable[PodRecord]) -> int:
        return sum(self._asleep_mib(pod) if pod.is_asleep else self.claimed_mib(pod) for pod in pods)

    def claimed_mib(self, pod: PodRecord) -> int:
        """Awake."""
        return pod.claim.total_mib if pod.claim is not None else self.need_mib(pod.environment, pod.memory_mib)

    # --- who gives some -------------------------------------------------------------------------------

    def givers(
        self,
        asking: FunctionPool | None,
        pools: Mapping[str, FunctionPool],
        unbound: Iterable[PodRecord],
        missing_mib: int,
        now_s: float,
    ) -> list[tuple[PodRecord, Parking]]:
        """Who gives `missing_mib` to `asking`, in this order: nobody's pods; idle pods of other functions, the longest
        idle first: those that may sleep do so, of the others what is beyond their `min_pods` ends; then what sleeps
        ends too; and where `asking` has no pod at all, one busy pod of the function that has the most, if it keeps
        one, or after TURN_S one whose end is enough. None whose share the others make up for. A
        template that nobody uses when its last pods end gives what it holds, too."""
        givers: dict[str, tuple[PodRecord, Parking]] = {}
        gone = set(self._leaving())
        freed_mib = self._freed_mib(gone)
        idle = idle_pods(asking, pools)
        ends = [(pod, END) for pod in unbound]
        parked = [(pod, self._park(_seen(pod, pools[pod.function_id].spec, now_s))) for pod in idle]
        asleep = [(pod, self._park(_seen(pod, pools[pod.function_id].spec, now_s, True))) for pod in idle]
        spare = set(beyond_least(asking, pools))
        sleepers = [(pod, parking) for pod, parking in parked if parking.level]
        enders = [(pod, parking) for pod, parking in [*parked, *asleep] if not parking.level and pod.pod_id in spare]
        busy = busy_pod(asking, pools) or self._turn(asking, pools, missing_mib, now_s)
        for pod, parking in [*ends, *sleepers, *enders, *((pod, END) for pod in busy)]:
            if missing_mib <= 0:
                break
            before_mib = self._gift_mib(*givers[pod.pod_id]) if pod.pod_id in givers else 0
            givers[pod.pod_id] = pod, parking
            if not parking.level:
                gone.add(pod.pod_id)
            with_mib = self._freed_mib(gone)
            missing_mib -= self._gift_mib(pod, parking) - before_mib + with_mib - freed_mib
            freed_mib = with_mib
        for pod, parking in list(givers.values()):
            gone.discard(pod.pod_id)
            without_mib = self._freed_mib(gone)
            gift_mib = self._gift_mib(pod, parking) + freed_mib - without_mib
            if missing_mib + gift_mib <= 0:
                del givers[pod.pod_id]
                missing_mib, freed_mib = missing_mib + gift_mib, without_mib
            elif not parking.level:
                gone.add(pod.pod_id)
        return list(givers.values())

    def _turn(
        self, asking: FunctionPool | None, pools: Mapping[str, FunctionPool], missing_mib: int, now_s: float
    ) -> list[PodRecord]:
        """One busy pod that leaves enough, with the template that nobody else uses; one at a time."""
        is_due = asking is not None and not asking.pods and now_s >= asking.short_s + TURN_S
        if not is_due or self.leaving_mib():
            return []
        for pool in pools.values():
            busy = [pod for pod in pool.pods.values() if pod.state == "bound" and pod.is_busy]
            if busy and len(pool.pods) > pool.min_pods:
                has_template = len(pool.pods) == 1 and self._templates.has(pool.function_id)
                shared_mib = self.template_mib(pool) if has_template else 0
                if self.claimed_mib(busy[-1]) + shared_mib >= missing_mib:
                    return busy[-1:]
        return []

    def _gift_mib(self, pod: PodRecord, parking: Parking) -> int:
        has_mib = self.total_mib([pod])
        return has_mib - self._asleep_mib(pod) if parking.level else has_mib

    def _asleep_mib(self, pod: PodRecord) -> int:
        kv_mib = pod.claim.kv_mib if pod.claim is not None else 0
        return int((self.claimed_mib(pod) - kv_mib) * ASLEEP_SHARE)

    def note_overdrawn(self) -> None:
        """A pod was given a task in its sleep: it takes its memory back, whether there is some or not. Or what was
        loaded has come out larger than was assumed."""
        self._overdrawn_mib = max(0, self.used_mib() - self.usable_mib) if self.usable_mib else 0

    @property
    def overdrawn_mib(self) -> int:
        return max(0, self.used_mib() - self.usable_mib) if self._overdrawn_mib else 0

    # --- in words -------------------------------------------------------------------------------------

    def never_fits(self, spec: FunctionSpec, need: MemoryNeed | None = None, shared_mib: int = 0) -> str:
        """Why not even one pod of `spec` can start here; empty where one can. shared_mib: what it cannot start without
        and does not have for itself."""
        need = need or MemoryNeed(self.need_mib(spec.environment, spec.resources.memory_mib))
        needed_mib = need.least_mib + shared_mib
        if not self.usable_mib or needed_mib <= self.usable_mib:
            return ""
        parts = [f"{need.least_kv_mib} MiB for the KV of one sequence"] if need.least_kv_mib else []
        parts += [f"{shared_mib} MiB for the weights and who loads them"] if shared_mib else []
        of_it = f" ({', '.join(parts)})" if parts else ""
        needs = f"a pod of {spec.label} needs {needed_mib} MiB of memory{of_it}"
        return f"{needs}; this host has {self.usable_mib} MiB for pods"

    def short_reason(self, what: str, need_mib: int) -> str:
        return f"waits for memory: {what} needs {need_mib} MiB, {self.used_mib()} of {self.usable_mib} MiB are taken"

    def check_invariants(self) -> None:
        used_mib = self.used_mib()
        assert not self.usable_mib or used_mib <= self.usable_mib + self._overdrawn_mib, (
            f"{used_mib} of {self.usable_mib} MiB are taken"
        )


def _seen(pod: PodRecord, spec: FunctionSpec, now_s: float, is_asleep: bool = False) -> IdlePod:
    return IdlePod(pod.pod_id, spec.kind, pod.is_asleep or is_asleep, now_s - pod.idle_since_s)


def idle_pods(asking: FunctionPool | None, pools: Mapping[str, FunctionPool]) -> list[PodRecord]:
    """The longest idle first."""
    idle = [
        pod
        for pool in pools.values()
        if pool is not asking
        for pod in pool.pods.values()
        if pod.state == "bound" and not pod.is_busy
    ]
    return sorted(idle, key=lambda pod: pod.idle_since_s)


def beyond_least(asking: FunctionPool | None, pools: Mapping[str, FunctionPool]) -> Iterator[str]:
    """Of idle pods those that their functions need not keep."""
    for pool in pools.values():
        idle = idle_pods(None, {pool.function_id: pool}) if pool is not asking else []
        yield from (pod.pod_id for pod in idle[: max(0, len(pool.pods) - pool.min_pods)])


def busy_pod(asking: FunctionPool | None, pools: Mapping[str, FunctionPool]) -> list[PodRecord]:
    if asking is None or asking.pods:
        return []
    richest = max(pools.values(), key=lambda pool: len(pool.pods) - pool.min_pods)
    if len(richest.pods) <= max(1, richest.min_pods):
        return []
    return [pod for pod in richest.pods.values() if pod.state == "bound" and pod.is_busy][-1:]
