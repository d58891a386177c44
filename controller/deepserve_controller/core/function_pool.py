"""FunctionPool: the pods of one function and the demand they answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from deepserve.protocol.specs import FunctionSpec

from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.views import FunctionLoad, FunctionView, PodsWanted


@dataclass(slots=True, eq=False)
class FunctionPool:
    """`pods` are those that serve it or will (starting, binding, bound); draining and stopped ones are out."""

    function_id: str
    spec: FunctionSpec
    min_pods: int
    max_pods: int
    slots: int
    pods: dict[str, PodRecord] = field(default_factory=dict)
    queued: int = 0
    running: int = 0
    wanted: PodsWanted = PodsWanted(0, "no demand yet")
    is_removed: bool = False
    is_broken: bool = False
    """Its executor failed to bind in a way that repeats: nothing is started before new demand."""
    num_failures: int = 0
    failed_s: float = -1.0
    retry_s: float = 0.0
    """No start before, after one that failed."""

    def load(self) -> FunctionLoad:
        """Demand as last reported, less what cannot be running any more because its pods are idle or gone."""
        busy_slots = sum(pod.slots for pod in self.pods.values() if pod.is_busy)
        return FunctionLoad(
            self.queued, min(self.running, busy_slots), self.slots,
            self.min_pods, self.max_pods, self.spec.scaling.buffer_pods,
        )  # fmt: skip

    def idle_pods(self) -> Iterator[PodRecord]:
        """Bound pods without a task, newest first."""
        return (pod for pod in reversed(self.pods.values()) if pod.state == "bound" and not pod.is_busy)

    def view(self) -> FunctionView:
        return FunctionView(
            self.function_id, self.spec.label, len(self.pods), self.wanted.pods, self.queued, self.wanted.reason
        )
