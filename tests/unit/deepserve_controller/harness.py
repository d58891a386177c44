"""Plain drivers for tests: events in, actions out, timers by hand, invariants after every event."""

from __future__ import annotations

import heapq
from random import Random
from typing import Any, Protocol, TypeVar

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import Outcome
from deepserve.protocol.specs import CodeRef, FunctionSpec, Scaling
from deepserve_controller.build import build_cluster_manager, build_job_executor
from deepserve_controller.core.actions import Action, FinishRequest, Notify, SendCancel, SendTask, WakeAt
from deepserve_controller.core.cluster_manager import ClusterManager
from deepserve_controller.core.device import Device
from deepserve_controller.core.events import (
    Event,
    ExecutorReady,
    FunctionDefined,
    RequestArrived,
    TaskFinished,
    TimerFired,
)
from deepserve_controller.core.job_executor import JobExecutor
from deepserve_controller.core.template_views import ChooseSource, PodSource, TemplateView

T = TypeVar("T")
CODE = CodeRef("bundle", "m", "f")
OK = Outcome("ok")
ERROR = Outcome("error", "ConnectionError")


class Core(Protocol):
    def handle(self, event: Event, now_s: float) -> list[Action]: ...
    def check_invariants(self) -> None: ...


def spec(name: str = "f", **options: Any) -> FunctionSpec:
    options.setdefault("kind", "function")
    scaling = {
        key: options.pop(key)
        for key in (
            "min_pods",
            "max_pods",
            "buffer_pods",
            "scaledown_window_s",
            "max_inputs",
            "target_inputs",
            "max_batch_size",
        )
        if key in options
    }
    return FunctionSpec(app="app", name=name, code=CODE, scaling=Scaling(**scaling), **options)


class Driven:
    """One core, or both, on a clock that the test moves."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.now_s = 0.0
        self._timers: list[tuple[float, int, tuple[Any, ...]]] = []
        self._number = 0
        self.num_timers_fired = 0

    @property
    def num_timers_set(self) -> int:
        return self._number

    def __call__(self, event: Event) -> list[Action]:
        """The actions but WakeAt, which the harness keeps."""
        actions = self.core.handle(event, self.now_s)
        self.core.check_invariants()
        for action in actions:
            if isinstance(action, WakeAt):
                self._number += 1
                heapq.heappush(self._timers, (action.at_s, self._number, action.key))
        return [action for action in actions if not isinstance(action, WakeAt)]

    def advance(self, seconds: float) -> list[Action]:
        """Let time pass, with all timers in it."""
        end_s, actions = self.now_s + seconds, []
        while self._timers and self._timers[0][0] <= end_s:
            self.now_s, _, key = heapq.heappop(self._timers)
            self.num_timers_fired += 1
            actions += self(TimerFired(key))
        self.now_s = end_s
        return actions


class Jobs(Driven):
    """A job executor with functions and pods made by name."""

    core: JobExecutor

    def __init__(self, **options: Any) -> None:
        super().__init__(build_job_executor(IdAllocator(), Random(1), **options))
        self.sent: dict[str, SendTask] = {}
        """The last one of each request."""
        self.states: dict[str, str] = {}
        """By request, as its actions tell it: running, stopping, and at last the outcome's kind."""

    def __call__(self, event: Event) -> list[Action]:
        actions = super().__call__(event)
        for action in actions:
            if isinstance(action, SendTask):
                self.sent[action.request_id] = action
                self.states[action.request_id] = "running"
            elif isinstance(action, SendCancel):
                task_id = action.task_id
                self.states |= {name: "stopping" for name, sent in self.sent.items() if sent.task_id == task_id}
            elif isinstance(action, FinishRequest):
                self.states[action.request_id] = action.outcome.kind
        return actions

    def define(self, function_id: str = "fn", **options: Any) -> list[Action]:
        return self(FunctionDefined(function_id, spec(**options)))

    def pod(self, pod_id: str = "pod-1", function_id: str = "fn", slots: int = 1) -> list[Action]:
        return self(ExecutorReady(pod_id, function_id, slots))

    def finish(self, task_id: str, attempt: int = 1, outcome: Outcome = OK, **options: Any) -> list[Action]:
        return self(TaskFinished(task_id, attempt, outcome, 5.0, **options))


def running(jobs: Jobs, *request_ids: str, slots: int = 1, **options: object) -> None:
    """`fn` on pod-1, which runs these requests as task-1, task-2 ..."""
    jobs.define(**options)
    jobs.pod(slots=slots)
    for request_id in request_ids:
        jobs(RequestArrived(request_id, "link", "fn"))


def load_in_each_pod(view: TemplateView) -> PodSource:
    """No function has a template: each pod that is missing starts at once, which is what tests of scaling count."""
    return PodSource(view.missing, False, False, "each pod loads for itself")


class Cluster(Driven):
    """A cluster manager."""

    core: ClusterManager

    def __init__(
        self,
        default_max_pods: int = 8,
        warm_pods: dict[str, int] | None = None,
        usable_mib: int = 0,
        choose_source: ChooseSource = load_in_each_pod,
        devices: tuple[Device, ...] = (),
    ) -> None:
        manager = build_cluster_manager(
            IdAllocator(), default_max_pods, warm_pods or {}, usable_mib=usable_mib, choose_source=choose_source,
            devices=devices,
        )  # fmt: skip
        super().__init__(manager)

    def define(self, function_id: str = "fn", **options: Any) -> list[Action]:
        return self(FunctionDefined(function_id, spec(**options)))

    def states(self) -> dict[str, str]:
        return {pod.pod_id: pod.state for pod in self.core.pods_view()}


def of_type(actions: list[Action], kind: type[T]) -> list[T]:
    return [action for action in actions if isinstance(action, kind)]


def only(actions: list[Action], kind: type[T]) -> T:
    [found] = of_type(actions, kind)
    return found


def news(actions: list[Action], kind: type[T]) -> list[T]:
    """Events of this kind that are for the other core."""
    return [action.event for action in actions if isinstance(action, Notify) and isinstance(action.event, kind)]
