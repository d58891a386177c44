"""WarmPool: the pods that are started and bound to nothing (DeepServe 2.12, pre-warmed pods)."""

from __future__ import annotations

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.views import PodsWanted, Prewarm

MAX_WARM_FAILURES = 3


class WarmPool:
    """Reads the cluster manager's pods; knows which of them are nobody's, and how many should be.

    An environment whose warm pods keep failing to start is not refilled until one of its pods connects again.
    """

    def __init__(self, pods: dict[str, PodRecord], prewarm: Prewarm) -> None:
        self._pods = pods
        self._prewarm = prewarm
        self._num_failures: dict[str, int] = {}

    def find(self, spec: FunctionSpec) -> PodRecord | None:
        """The first warm pod that fits. A memory limit is set when a pod starts, so it must be the same."""
        for pod in self._pods.values():
            if pod.state == "warm" and self._fits(pod, spec.environment, spec.resources.memory_mib):
                return pod
        return None

    def find_claimed_like(self, pod: PodRecord) -> PodRecord | None:
        """The first pod still starting for a function that `pod` could serve as well."""
        for other in self._pods.values():
            is_claimed = other.state == "starting" and other.function_id != ""
            if is_claimed and self._fits(pod, other.environment, other.memory_mib):
                return other
        return None

    def missing(self, environment: str) -> PodsWanted:
        """How many pods to start for it now."""
        wanted = self._prewarm(environment)
        if self._num_failures.get(environment, 0) >= MAX_WARM_FAILURES:
            return PodsWanted(0, f"warm pods of {environment} do not start")
        return PodsWanted(wanted.pods - self._count(environment, ("starting", "warm")), wanted.reason)

    def has_room(self, pod: PodRecord) -> bool:
        """Whether `pod`, nobody's, is worth keeping."""
        return not pod.memory_mib and self._count(pod.environment, ("warm",)) < self._prewarm(pod.environment).pods

    def note_failure(self, environment: str) -> None:
        self._num_failures[environment] = self._num_failures.get(environment, 0) + 1

    def note_success(self, environment: str) -> None:
        self._num_failures.pop(environment, None)

    def _count(self, environment: str, states: tuple[str, ...]) -> int:
        return sum(
            1 for pod in self._pods.values()
            if not pod.function_id and pod.state in states and self._fits(pod, environment, 0)
        )  # fmt: skip

    @staticmethod
    def _fits(pod: PodRecord, environment: str, memory_mib: int) -> bool:
        return pod.environment == environment and pod.memory_mib == memory_mib
