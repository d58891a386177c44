"""HostMemory: whether one more pod fits into the memory of the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.pod_record import PodRecord

ASSUMED_MIB: Mapping[str, int] = {"python": 16, "tokenizer": 64, "flowserve": 512}
"""What a pod without a limit of its own is taken to use beyond what it shares with its template, by environment."""


class HostMemory:
    """Adds up the limits of all pods that are not gone. `usable_mib` 0: there is no bound.

    `templates`: of which functions there is one; it takes what one of its pods takes, though they share most of it.
    """

    def __init__(
        self, pods: Mapping[str, PodRecord], usable_mib: int, templates: Callable[[], Iterable[FunctionSpec]]
    ) -> None:
        self._pods = pods
        self._templates = templates
        self.usable_mib = usable_mib

    def need_mib(self, environment: str, memory_mib: int) -> int:
        return memory_mib or ASSUMED_MIB.get(environment, ASSUMED_MIB["python"])

    def missing_mib(self, environment: str, memory_mib: int, num_pods: int = 1) -> int:
        """What must become free before so many such pods may start; not positive where they fit now."""
        if not self.usable_mib:
            return 0
        return self.used_mib() + num_pods * self.need_mib(environment, memory_mib) - self.usable_mib

    def has_room(self, spec: FunctionSpec, num_pods: int) -> bool:
        """For that many pods of it."""
        need_mib = self.need_mib(spec.environment, spec.resources.memory_mib)
        return not self.usable_mib or self.used_mib() + num_pods * need_mib <= self.usable_mib

    def used_mib(self) -> int:
        specs = self._templates()
        in_templates = sum(self.need_mib(spec.environment, spec.resources.memory_mib) for spec in specs)
        return self.total_mib(self._pods.values()) + in_templates

    def leaving_mib(self) -> int:
        """What pods hold that were told to end."""
        return self.total_mib(pod for pod in self._pods.values() if pod.state in ("draining", "stopped"))

    def total_mib(self, pods: Iterable[PodRecord]) -> int:
        return sum(self.need_mib(pod.environment, pod.memory_mib) for pod in pods)

    def givers(
        self, asking: FunctionPool, pools: Mapping[str, FunctionPool], unbound: Iterable[PodRecord], missing_mib: int
    ) -> list[PodRecord]:
        """Who gives `missing_mib` to `asking`, in this order: nobody's pods; idle pods of other functions beyond their
        `min_pods`, the longest idle first; and where `asking` has no pod at all, one busy pod of the function that has
        the most, if it keeps one. None whose share the others make up for."""
        givers: list[PodRecord] = []
        for pod in [*unbound, *_idle_pods(asking, pools), *_busy_pod(asking, pools)]:
            if missing_mib <= 0:
                break
            givers.append(pod)
            missing_mib -= self.total_mib([pod])
        for pod in givers.copy():
            share_mib = self.total_mib([pod])
            if missing_mib + share_mib <= 0:
                givers.remove(pod)
                missing_mib += share_mib
        return givers

    def never_fits(self, spec: FunctionSpec) -> str:
        """Why not even one pod of `spec` can start here; empty where one can."""
        need_mib = self.need_mib(spec.environment, spec.resources.memory_mib)
        if not self.usable_mib or need_mib <= self.usable_mib:
            return ""
        return f"a pod of {spec.label} needs {need_mib} MiB of memory; this host has {self.usable_mib} MiB for pods"

    def short_reason(self, spec: FunctionSpec) -> str:
        need_mib = self.need_mib(spec.environment, spec.resources.memory_mib)
        used_mib = self.used_mib()
        return f"waits for memory: a pod needs {need_mib} MiB, {used_mib} of {self.usable_mib} MiB are taken"

    def check_invariants(self) -> None:
        used_mib = self.used_mib()
        assert not self.usable_mib or used_mib <= self.usable_mib, f"{used_mib} of {self.usable_mib} MiB are taken"


def _idle_pods(asking: FunctionPool, pools: Mapping[str, FunctionPool]) -> list[PodRecord]:
    idle: list[PodRecord] = []
    for pool in pools.values():
        if pool is not asking:
            found = [pod for pod in pool.pods.values() if pod.state == "bound" and not pod.is_busy]
            found.sort(key=lambda pod: pod.idle_since_s)
            idle += found[: max(0, len(pool.pods) - pool.min_pods)]
    return sorted(idle, key=lambda pod: pod.idle_since_s)


def _busy_pod(asking: FunctionPool, pools: Mapping[str, FunctionPool]) -> list[PodRecord]:
    if asking.pods:
        return []
    richest = max(pools.values(), key=lambda pool: len(pool.pods) - pool.min_pods)
    if len(richest.pods) <= max(1, richest.min_pods):
        return []
    return [pod for pod in richest.pods.values() if pod.state == "bound" and pod.is_busy][-1:]
