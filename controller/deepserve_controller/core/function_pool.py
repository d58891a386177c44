"""FunctionPool: the pods of one function and the demand they answer."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.views import FunctionLoad, FunctionView, PodsWanted

MAX_START_FAILURES = 3
START_BACKOFF_S = 0.1
"""Before the second try; doubled for the third."""


FailureKind = Literal["ended", "starts slowly", "loads slowly"]


class Failure(NamedTuple):
    """Of a pod that did not get ready. `loads slowly`: the code's own doing, which is not tried again."""

    kind: FailureKind
    text: str


class FunctionPool(msgspec.Struct, eq=False):
    """`pods` are those that serve it or will (starting, binding, bound); draining and stopped ones are out."""

    function_id: str
    spec: FunctionSpec
    min_pods: int
    max_pods: int
    slots: int
    pods: dict[str, PodRecord] = {}
    queued: int = 0
    running: int = 0
    wanted: PodsWanted = PodsWanted(0, "no demand yet")
    is_removed: bool = False
    """Its pods are given up; only a late timer can still hold it."""
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

    def note_failure(self, now_s: float, failure: Failure) -> bool:
        """Whether to try again, at `retry_s`; else it is given up."""
        self.failed_s = now_s
        self.num_failures += 1
        if failure.kind == "loads slowly" or self.num_failures >= MAX_START_FAILURES:
            return False
        self.retry_s = now_s + START_BACKOFF_S * 2 ** (self.num_failures - 1)
        return True

    def epitaph(self, failure: Failure) -> str:
        """What to tell who waits, once it is given up; the count begins anew."""
        text = failure.text
        if failure.kind != "ended":
            text = f"not ready within its startup_timeout of {self.spec.startup_timeout_s:g} s: {text}"
        if self.num_failures > 1:
            text = f"{text} ({self.num_failures} tries)"
        self.num_failures, self.retry_s = 0, 0.0
        return text

    def excess_pods(self) -> list[PodRecord]:
        """Pods over `max_pods`: those not bound yet first, then idle, then busy ones; newest first."""
        num_excess = max(0, len(self.pods) - self.max_pods)
        newest_first = list(reversed(self.pods.values()))
        by_value = sorted(newest_first, key=lambda pod: 0 if pod.state != "bound" else 2 if pod.is_busy else 1)
        return by_value[:num_excess]

    def view(self) -> FunctionView:
        return FunctionView(
            self.function_id, self.spec.label, len(self.pods), self.wanted.pods, self.queued, self.wanted.reason
        )

    def check_invariants(self) -> None:
        num_pods, label = len(self.pods), self.spec.label
        assert num_pods <= self.max_pods, f"{label}: {num_pods} pods of at most {self.max_pods}"
        for pod_id, pod in self.pods.items():
            assert pod.function_id == self.function_id, f"{pod_id} of {label} belongs to {pod.label}"
            assert pod.state in ("starting", "binding", "bound"), f"{pod_id} is {pod.state} and counted for {label}"
