"""FunctionPool: the pods of one function and the demand they answer."""

from __future__ import annotations

import msgspec

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.alarms import Alarm
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.pod_use import PodUse
from deepserve_controller.core.scaling_history import ScalingHistory
from deepserve_controller.core.scaling_views import NO_PANIC, Autoscaler, FunctionLoad, Panic, PodsWanted, TokenLoad
from deepserve_controller.core.start_failures import StartFailures
from deepserve_controller.core.status_views import FunctionView

STALE_S = 30.0
"""Measurements of engines count for so long."""


class FunctionPool(msgspec.Struct, eq=False):
    """`pods` are those that serve it or will (starting, binding, bound); draining and stopped ones are out."""

    function_id: str
    spec: FunctionSpec
    min_pods: int
    max_pods: int
    buffer_pods: int
    window_s: float
    slots: int
    use: PodUse
    defined_s: float = 0.0
    pods: dict[str, PodRecord] = {}
    num_busy: int = 0
    """Of `pods`: those with a task."""
    queued: int = 0
    running: int = 0
    tokens: TokenLoad | None = None
    """Of a model, as last reported."""
    tokens_s: float = 0.0
    """When that was."""
    leaving: set[str] = set()
    """Of `pods`: those for which another one is started elsewhere first, and that count no more."""
    needed: int = 0
    """See PodsWanted."""
    wanted: PodsWanted = PodsWanted(0, "no demand yet")
    decided_s: float = 0.0
    """When that was."""
    panic: Panic = NO_PANIC
    history: ScalingHistory = msgspec.field(default_factory=ScalingHistory)
    past_pod_s: float = 0.0
    """Seconds of all pods that are gone, from when each was meant for it."""
    review: Alarm | None = None
    """Will ask whether there are too many pods."""
    pod_source: str = ""
    """Where its latest pods came from, and why."""
    short_reason: str = ""
    """Why the pods that it wants do not start; empty while they may."""
    short_s: float = 0.0
    """Since when that is so."""
    is_removed: bool = False
    """Its pods are given up; only a late timer can still hold it."""
    is_broken: bool = False
    """Its executor failed to bind in a way that repeats: nothing is started before new demand."""
    broken_because: str = ""
    """How that last was; empty since one was ready."""
    failures: StartFailures = msgspec.field(default_factory=StartFailures)

    @property
    def target(self) -> int:
        """Tasks of one pod that scaling aims at."""
        return min(self.spec.scaling.target_inputs or self.slots, self.slots)

    @property
    def is_in_use(self) -> bool:
        """Somebody waits for it, or it works."""
        return bool(self.queued or self.num_busy)

    @property
    def num_pods(self) -> int:
        """That it has, when all moves are over."""
        return len(self.pods) - len(self.leaving)

    # --- its pods -------------------------------------------------------------------------------------

    def add(self, pod: PodRecord, now_s: float) -> None:
        self.pods[pod.pod_id] = pod
        pod.claimed_s = now_s
        self.num_busy += pod.is_busy
        self.note_use(now_s)

    def take_out(self, pod: PodRecord, now_s: float) -> None:
        if self.pods.pop(pod.pod_id, None) is not None:
            self.leaving.discard(pod.pod_id)
            self.num_busy -= pod.is_busy
            self.note_use(now_s)

    def note_gone(self, pod: PodRecord, now_s: float) -> None:
        """It has ended, or serves another from now on."""
        self.past_pod_s += now_s - pod.claimed_s

    def set_busy(self, pod: PodRecord, is_busy: bool, now_s: float) -> None:
        if pod.is_busy == is_busy:
            return
        pod.is_busy = is_busy
        if pod.pod_id in self.pods:
            self.num_busy += 1 if is_busy else -1
            if self.num_busy <= 1 or self.slots == 1:
                self.use.note(self.num_busy, now_s)
            else:
                self.note_use(now_s)

    def note_use(self, now_s: float) -> None:
        """Pods with several slots may all be busy with what fewer could do: those count."""
        in_use = self.num_busy
        if in_use > 1 and self.slots > 1:
            in_use = min(in_use, max(1, -(-self.running // self.target), self.needed))
        self.use.note(in_use, now_s)

    def set_window(self, window_s: float) -> None:
        self.window_s = window_s
        self.use.keep_s = max(self.use.keep_s, window_s)

    def count(self, *states: str) -> int:
        return sum(1 for pod in self.pods.values() if pod.state in states)

    # --- for the autoscaler -----------------------------------------------------------------------------

    def load(self, autoscaler: Autoscaler, start_s: float, now_s: float) -> FunctionLoad:
        """Demand as last reported, less what cannot be running any more because its pods are idle or gone.

        `start_s`: see FunctionLoad."""
        busy_slots = sum(pod.slots for pod in self.pods.values() if pod.is_busy)
        return FunctionLoad(
            self.queued, min(self.running, busy_slots), self.target,
            self.min_pods, self.max_pods, self.buffer_pods,
            self.num_pods, self.count("bound"), self._recent_pods(now_s),
            self.use.average(autoscaler.stable_window_s, now_s),
            self.use.average(autoscaler.panic_window_s, now_s),
            self.panic, self._tokens(now_s), start_s, now_s - self.defined_s,
        )  # fmt: skip

    def _tokens(self, now_s: float) -> TokenLoad | None:
        """What engines measured long ago says nothing of now; what they have to do is still so, or was told anew."""
        if self.tokens is None or now_s - self.tokens_s <= STALE_S:
            return self.tokens
        return self.tokens._replace(late_s=0.0, step_s=0.0, arrivals=())

    def note_ready(self, pod: PodRecord, slots: int, now_s: float) -> None:
        pod.move("bound", now_s)
        pod.slots = self.slots = slots
        self.failures.clear()
        self.broken_because = ""

    def _recent_pods(self, now_s: float) -> int:
        """Pods that work or did within the scale-down window; a fresh one has its window, too."""
        recent = self.num_busy + sum(1 for pod in self.pods.values() if self.is_within_window(pod, now_s))
        if self.slots > 1 and recent > 1:
            recent = min(recent, max(1, self.use.most(self.window_s, now_s)))
        return recent

    def is_within_window(self, pod: PodRecord, now_s: float) -> bool:
        """It is idle, and not for long."""
        return pod.state == "bound" and not pod.is_busy and now_s < pod.idle_since_s + self.window_s

    # --- for people and tests ---------------------------------------------------------------------------

    def _running_now(self) -> int:
        """`running` is what the last demand said; which pods are busy is known since."""
        busy_slots = sum(pod.slots for pod in self.pods.values() if pod.is_busy)
        return max(self.num_busy, min(self.running, busy_slots))

    def view(self, num_draining: int = 0) -> FunctionView:
        ready = self.count("bound")
        reason = f"{self.wanted.reason}; {self.short_reason}" if self.short_reason else self.wanted.reason
        return FunctionView(
            self.function_id, self.spec.label, len(self.pods), self.wanted.pods, self.queued, reason,
            self._running_now(), ready, len(self.pods) - ready, num_draining,
            self.min_pods, self.max_pods, self.buffer_pods, self.window_s, self.pod_source, self.broken_because,
            self.decided_s,
        )  # fmt: skip

    def check_invariants(self) -> None:
        num_pods, label = self.num_pods, self.spec.label
        assert self.leaving <= self.pods.keys(), f"{label}: {self.leaving} have left"
        assert num_pods <= self.max_pods, f"{label}: {num_pods} pods of at most {self.max_pods}"
        for pod_id, pod in self.pods.items():
            assert pod.function_id == self.function_id, f"{pod_id} of {label} belongs to {pod.label}"
            assert pod.state in ("starting", "binding", "bound"), f"{pod_id} is {pod.state} and counted for {label}"
        num_busy = sum(pod.is_busy for pod in self.pods.values())
        assert num_busy == self.num_busy, f"{label}: {num_busy} busy pods, counted {self.num_busy}"
        is_idle = any(pod.state == "bound" and not pod.is_busy for pod in self.pods.values())
        if is_idle and num_pods > self.min_pods:
            assert self.review is not None, f"{label} has an idle pod and no window runs"
        self.use.check_invariants()
