"""WarmPool: the pods that are started and bound to nothing (DeepServe 2.12, pre-warmed pods)."""

from __future__ import annotations

from collections import deque

import msgspec

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.scaling_views import PodsWanted, PoolUse, Prewarm

MAX_WARM_FAILURES = 3
BURST_S = 1.0
"""Pods taken within this time of the first are one burst. The pool grows when nothing was wanted for as long: more
warm pods must not slow down those that somebody waits for."""


class Burst(msgspec.Struct):
    at_s: float
    pods: int


class WarmPool:
    """Reads the cluster manager's pods; knows which of them are nobody's, and how many should be.

    An environment whose warm pods keep failing to start is not refilled until one of its pods connects again.
    """

    def __init__(self, pods: dict[str, PodRecord], prewarm: Prewarm) -> None:
        self._pods = pods
        self._prewarm = prewarm
        self._num_failures: dict[str, int] = {}
        self._cold_s: dict[str, deque[float]] = {}
        """When a pod had to be started while somebody waited, by environment."""
        self._bursts: dict[str, deque[Burst]] = {}
        """Of warm pods that were taken."""
        self.tended: set[str] = set()
        """Environments for which an alarm is set to look at their pool again."""

    # --- finding ----------------------------------------------------------------------------------------

    def find(self, spec: FunctionSpec) -> PodRecord | None:
        """The first warm pod that fits. A memory limit is set when a pod starts, so it must be the same."""
        for pod in self._pods.values():
            if pod.state == "warm" and self._fits(pod, spec.environment, spec.resources.memory_mib):
                return pod
        return None

    def find_claimed_like(self, pod: PodRecord) -> PodRecord | None:
        """The first pod still starting for a function that `pod` could serve as well."""
        for other in self._pods.values():
            is_claimed = other.state == "starting" and other.function_id != "" and not other.template_id
            if is_claimed and self._fits(pod, other.environment, other.memory_mib):
                return other
        return None

    def unbound_pods(self) -> list[PodRecord]:
        """All that are started and nobody's, oldest first."""
        return [pod for pod in self._pods.values() if pod.state == "warm" and not pod.function_id]

    # --- size -------------------------------------------------------------------------------------------

    def note_cold_start(self, environment: str, memory_mib: int, now_s: float) -> None:
        if not memory_mib:  # a warm pod has no limit, so it could not have helped
            self._cold_s.setdefault(environment, deque()).append(now_s)

    def note_taken(self, environment: str, now_s: float) -> None:
        bursts = self._bursts.setdefault(environment, deque())
        if bursts and now_s < bursts[-1].at_s + BURST_S:
            bursts[-1].pods += 1
        else:
            bursts.append(Burst(now_s, 1))

    def missing(self, environment: str, now_s: float) -> PodsWanted:
        """How many pods to start for it now, fewer than none where some are too many.

        What recent use adds to the pool's least size is started when that use has calmed down.
        """
        if self._num_failures.get(environment, 0) >= MAX_WARM_FAILURES:
            return PodsWanted(0, f"warm pods of {environment} do not start")
        wanted = self.wanted(environment, now_s)
        num_warm = self._count(environment, ("starting", "warm"))
        if num_warm < wanted.pods and now_s < max(self._times_s(environment), default=-BURST_S) + BURST_S:
            least = self._prewarm.decide(PoolUse(environment))
            return PodsWanted(max(0, least.pods - num_warm), least.reason)
        return PodsWanted(wanted.pods - num_warm, wanted.reason)

    def wanted(self, environment: str, now_s: float) -> PodsWanted:
        self._forget_old(environment, now_s)
        bursts = self._bursts.get(environment, ())
        most = max((burst.pods for burst in bursts), default=0)
        return self._prewarm.decide(PoolUse(environment, len(self._cold_s.get(environment, ())), most))

    def superfluous_pods(self, environment: str, number: int) -> list[PodRecord]:
        """So many warm pods of `environment` that may go, the oldest first."""
        found = [pod for pod in self.unbound_pods() if self._fits(pod, environment, 0)]
        return found[: max(0, number)]

    def tend_at_s(self, environment: str, now_s: float) -> float | None:
        """When its size may change by time alone; None where it will not."""
        self._forget_old(environment, now_s)
        times_s = self._times_s(environment)
        if not times_s:
            return None
        if now_s < max(times_s) + BURST_S:
            return max(times_s) + BURST_S
        return min(times_s) + self._prewarm.memory_s

    def has_room(self, pod: PodRecord, now_s: float) -> bool:
        """Whether `pod`, nobody's, is worth keeping."""
        num_warm = self._count(pod.environment, ("warm",))
        return not pod.memory_mib and num_warm < self.wanted(pod.environment, now_s).pods

    def note_failure(self, environment: str) -> None:
        self._num_failures[environment] = self._num_failures.get(environment, 0) + 1

    def note_success(self, environment: str) -> None:
        self._num_failures.pop(environment, None)

    # --- inside -----------------------------------------------------------------------------------------

    def _forget_old(self, environment: str, now_s: float) -> None:
        memory_s = self._prewarm.memory_s
        cold_s, bursts = self._cold_s.get(environment), self._bursts.get(environment)
        while cold_s and cold_s[0] + memory_s <= now_s:
            cold_s.popleft()
        while bursts and bursts[0].at_s + memory_s <= now_s:
            bursts.popleft()

    def _times_s(self, environment: str) -> list[float]:
        return [*self._cold_s.get(environment, ()), *(burst.at_s for burst in self._bursts.get(environment, ()))]

    def _count(self, environment: str, states: tuple[str, ...]) -> int:
        return sum(
            1 for pod in self._pods.values()
            if not pod.function_id and pod.state in states and self._fits(pod, environment, 0)
        )  # fmt: skip

    @staticmethod
    def _fits(pod: PodRecord, environment: str, memory_mib: int) -> bool:
        return pod.environment == environment and pod.memory_mib == memory_mib and not pod.template_id
