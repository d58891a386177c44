"""A pod's life: cold -> warming -> warm -> bound -> draining -> stopped.

Pure: facts go in, orders come out. The agent performs the orders and reports back with further facts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from deepserve.protocol.pod_messages import SHUTDOWN
from deepserve.protocol.specs import FunctionSpec

PodState = Literal["cold", "warming", "warm", "bound", "draining", "stopped"]

TRANSITIONS: dict[PodState, tuple[PodState, ...]] = {
    "cold": ("warming", "stopped"),
    "warming": ("warm", "stopped"),
    "warm": ("bound", "draining", "stopped"),
    "bound": ("draining", "stopped"),
    "draining": ("stopped",),
    "stopped": (),
}

TaskKey = tuple[str, int]
"""Task id and attempt: a retry may arrive before the last attempt is put away."""


# --- events: facts ---------------------------------------------------------------------------------


class PodStarted(msgspec.Struct, frozen=True):
    pass


class ControllerJoined(msgspec.Struct, frozen=True):
    pass


class BindArrived(msgspec.Struct, frozen=True):
    function_id: str
    spec: FunctionSpec


class ExecutorLoaded(msgspec.Struct, frozen=True):
    function_id: str
    slots: int
    steps_ms: dict[str, float] = {}


class ExecutorLoadFailed(msgspec.Struct, frozen=True):
    function_id: str
    error: BaseException


class TaskArrived(msgspec.Struct, frozen=True):
    key: TaskKey


class CancelArrived(msgspec.Struct, frozen=True):
    key: TaskKey
    reason: str


class TaskEnded(msgspec.Struct, frozen=True):
    key: TaskKey


class StopArrived(msgspec.Struct, frozen=True):
    reason: str


class ExecutorUnloaded(msgspec.Struct, frozen=True):
    pass


class LinkLost(msgspec.Struct, frozen=True):
    text: str


Event = (
    PodStarted | ControllerJoined | BindArrived | ExecutorLoaded | ExecutorLoadFailed
    | TaskArrived | CancelArrived | TaskEnded | StopArrived | ExecutorUnloaded | LinkLost
)  # fmt: skip


# --- actions: orders -------------------------------------------------------------------------------


class DialController(msgspec.Struct, frozen=True):
    pass


class LoadExecutor(msgspec.Struct, frozen=True):
    function_id: str
    spec: FunctionSpec


class ReportReady(msgspec.Struct, frozen=True):
    function_id: str
    slots: int
    steps_ms: dict[str, float]


class ReportFailed(msgspec.Struct, frozen=True):
    function_id: str
    error: BaseException


class RunTask(msgspec.Struct, frozen=True):
    key: TaskKey


class RefuseTask(msgspec.Struct, frozen=True):
    key: TaskKey
    text: str


class InterruptTask(msgspec.Struct, frozen=True):
    key: TaskKey
    reason: str


class UnloadExecutor(msgspec.Struct, frozen=True):
    """Run the exit hooks; ExecutorUnloaded comes back."""


class ExitPod(msgspec.Struct, frozen=True):
    """`at_once`: nobody is left to hear of it, so nothing of the user's code is waited for."""

    reason: str
    at_once: bool = False


Action = (
    DialController | LoadExecutor | ReportReady | ReportFailed | RunTask | RefuseTask | InterruptTask
    | UnloadExecutor | ExitPod
)  # fmt: skip


class PodLifecycle:
    """Changed only through `handle`."""

    def __init__(self) -> None:
        self.state: PodState = "cold"
        self.function_id = ""
        """What the pod is bound to, or is being bound to: a pod is bound once in its life."""
        self.running: dict[TaskKey, None] = {}
        self._is_loading = False
        self._stop_reason = ""
        self._handlers: dict[type, Callable[[Any], list[Action]]] = {
            PodStarted: self._on_started,
            ControllerJoined: self._on_joined,
            BindArrived: self._on_bind,
            ExecutorLoaded: self._on_loaded,
            ExecutorLoadFailed: self._on_load_failed,
            TaskArrived: self._on_task,
            CancelArrived: self._on_cancel,
            TaskEnded: self._on_task_ended,
            StopArrived: self._on_stop,
            ExecutorUnloaded: self._on_unloaded,
            LinkLost: self._on_link_lost,
        }

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Orders that follow from `event`; none of this decides by the clock yet, drivers pass it all the same."""
        return self._handlers[type(event)](event)

    def check_invariants(self) -> None:
        assert not self.running or self.state in ("bound", "draining"), (self.state, self.running)
        assert self.state != "bound" or self.function_id
        assert not self._is_loading or self.state in ("warm", "draining"), self.state

    def _go(self, state: PodState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a pod cannot go from {self.state} to {state}")
        self.state = state

    def _on_started(self, event: PodStarted) -> list[Action]:
        self._go("warming")
        return [DialController()]

    def _on_joined(self, event: ControllerJoined) -> list[Action]:
        self._go("warm")
        return []

    def _on_bind(self, event: BindArrived) -> list[Action]:
        if self.state != "warm" or self.function_id:
            text = f"this pod is {self.state} ({self.function_id or 'bound to nothing'}), it cannot be bound"
            return [ReportFailed(event.function_id, RuntimeError(text))]
        self.function_id = event.function_id
        self._is_loading = True
        return [LoadExecutor(event.function_id, event.spec)]

    def _on_loaded(self, event: ExecutorLoaded) -> list[Action]:
        self._is_loading = False
        if self.state != "warm":  # asked to stop meanwhile: its exit hooks still run
            return [UnloadExecutor()] if self.state == "draining" else []
        self._go("bound")
        return [ReportReady(event.function_id, event.slots, event.steps_ms)]

    def _on_load_failed(self, event: ExecutorLoadFailed) -> list[Action]:
        """Half an import may be loaded: such a pod takes nothing more and waits to be stopped."""
        self._is_loading = False
        if self.state == "stopped":
            return []
        actions: list[Action] = [ReportFailed(event.function_id, event.error)]
        if self._stop_reason:
            return actions + self._exit(self._stop_reason)
        self._go("draining")
        return actions

    def _on_task(self, event: TaskArrived) -> list[Action]:
        if event.key in self.running:
            return []
        if self.state != "bound":
            return [RefuseTask(event.key, f"the pod is {self.state}")]
        self.running[event.key] = None
        return [RunTask(event.key)]

    def _on_cancel(self, event: CancelArrived) -> list[Action]:
        return [InterruptTask(event.key, event.reason)] if event.key in self.running else []

    def _on_task_ended(self, event: TaskEnded) -> list[Action]:
        if event.key not in self.running:  # it was refused
            return []
        del self.running[event.key]
        return [UnloadExecutor()] if self.state == "draining" and not self.running else []

    def _on_stop(self, event: StopArrived) -> list[Action]:
        if self._stop_reason or self.state == "stopped":
            return []
        self._stop_reason = event.reason or "stop"
        if self._is_loading:
            self._go("draining")
            return []
        if self.state != "bound":
            return self._exit(self._stop_reason)
        self._go("draining")
        if not self.running:
            return [UnloadExecutor()]
        reason = SHUTDOWN if event.reason == SHUTDOWN else "cancelled"
        return [InterruptTask(key, reason) for key in self.running]

    def _on_unloaded(self, event: ExecutorUnloaded) -> list[Action]:
        return self._exit(self._stop_reason)

    def _on_link_lost(self, event: LinkLost) -> list[Action]:
        return self._exit(event.text, at_once=True)

    def _exit(self, reason: str, at_once: bool = False) -> list[Action]:
        if self.state == "stopped":
            return []
        self._go("stopped")
        self._is_loading = False
        self.running.clear()
        return [ExitPod(reason, at_once)]
