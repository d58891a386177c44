"""PodRecord: what the cluster manager knows of one pod."""

from __future__ import annotations

from typing import Literal

import msgspec

from deepserve_controller.core.alarms import Alarm
from deepserve_controller.core.device import Allotment
from deepserve_controller.core.memory_claims import MemoryClaim
from deepserve_controller.core.status_views import PodView

PodState = Literal["starting", "warm", "binding", "bound", "draining", "stopped"]

TRANSITIONS: dict[PodState, tuple[PodState, ...]] = {
    "starting": ("warm", "stopped"),
    "warm": ("binding", "stopped"),
    "binding": ("bound", "stopped"),
    "bound": ("draining", "stopped"),
    "draining": ("stopped",),
    "stopped": (),
}
"""From any state a pod may be lost, which removes its record. `stopped` is told to end and not yet gone."""


class PodRecord(msgspec.Struct, eq=False):
    """`function_id` is the function that it is meant for or bound to, empty for the warm pool."""

    pod_id: str
    environment: str
    memory_mib: int
    function_id: str
    label: str
    reason: str
    started_s: float
    since_s: float
    claimed_s: float = 0.0
    """Since when it is meant for its function."""
    state: PodState = "starting"
    pid: int = 0
    slots: int = 0
    is_busy: bool = False
    is_asleep: bool = False
    """It has given back memory, and is woken by its next task."""
    idle_since_s: float = 0.0
    drain_alarm: Alarm | None = None
    """While draining: when it is killed all the same."""
    ready_by_s: float = 0.0
    """When it counts as a failed start, while starting or binding."""
    template_id: str = ""
    """The function's template that it is forked from; empty for pods of an environment's."""
    devices: Allotment = Allotment()
    """Its own from when it is meant for a function until it is gone."""
    claim: MemoryClaim | None = None
    """The same, of memory; while it is nobody's its environment's is assumed."""

    def move(self, state: PodState, now_s: float, reason: str = "") -> None:
        assert state in TRANSITIONS[self.state], f"{self.pod_id}: {self.state} -> {state} is no transition"
        self.state = state
        self.since_s = now_s
        self.reason = reason or self.reason

    @property
    def doing(self) -> str:
        return f"loading {self.label}" if self.state == "binding" else self.state

    def view(self) -> PodView:
        return PodView(
            pod_id=self.pod_id,
            state=self.state,
            environment=self.environment,
            function_id=self.function_id,
            label=self.label,
            pid=self.pid,
            slots=self.slots,
            is_busy=self.is_busy,
            started_s=self.started_s,
            since_s=self.since_s,
            reason=self.reason,
            is_asleep=self.is_asleep,
            devices=self.devices,
            memory_mib=self.claim.total_mib if self.claim is not None else 0,
            kv_mib=self.claim.kv_mib if self.claim is not None else 0,
        )

    def check_invariants(self) -> None:
        if self.state == "warm":
            assert not self.function_id, f"{self.pod_id} is warm but belongs to {self.label}"
        if self.state in ("starting", "binding"):
            assert self.ready_by_s > 0.0, f"{self.pod_id} may be {self.state} for ever"
        assert not (self.is_asleep and self.is_busy), f"{self.pod_id} works in its sleep"
        if self.state == "draining":
            assert self.drain_alarm is not None, f"{self.pod_id} may drain for ever"
