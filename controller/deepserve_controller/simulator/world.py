"""World: what the cores' actions lead to: forks, binds, tasks, and the accidents that befall them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from deepserve.protocol.messages import Outcome
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core import actions, events
from deepserve_controller.core.actions import Action
from deepserve_controller.core.events import Event
from deepserve_controller.simulator.chunk_runs import ChunkRuns
from deepserve_controller.simulator.engine import Occurrence
from deepserve_controller.simulator.report import Record

Range = tuple[float, float]
"""Seconds, drawn uniformly."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each step; the defaults are what a 2-core machine measured with local processes."""

    template_s: Range = (0.05, 0.08)
    """Once for each environment: its imports."""
    fork_s: Range = (0.002, 0.006)
    bind_s: Range = (0.005, 0.02)
    task_s: Range = (0.01, 0.03)
    task_mean_s: float = 0.0
    """Where positive, tasks take exponentially distributed times of this mean instead."""
    long_share: float = 0.0
    """Of tasks, by chance, that take `long_s` instead."""
    long_s: Range = (0.05, 0.1)
    item_s: Range = (0.001, 0.002)
    stop_s: Range = (0.001, 0.005)


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities, each drawn on its own occasion."""

    start_fails: float = 0.0
    bind_dies: float = 0.0
    bind_fails: float = 0.0
    template_dies: float = 0.0
    template_refused: float = 0.0
    task_dies: float = 0.0
    """A pod dies while it runs the task."""
    task_raises: float = 0.0
    """The user's code raises something that `retries` cover."""
    task_hangs: float = 0.0
    """The task neither ends nor obeys a cancel."""
    finish_twice: float = 0.0
    """The same TaskFinished comes again, up to a second later, also from a pod that is gone."""
    lost_twice: float = 0.0


@dataclass(slots=True)
class SimulatedPod:
    pod_id: str
    environment: str
    function_id: str = ""
    tasks: dict[str, actions.SendTask | actions.SendChunk] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)


@dataclass(slots=True)
class SimulatedTemplate:
    """A process that has loaded a function. Pods outlive it here: that they die with it is one more loss of a pod."""

    function_id: str
    slots: int
    is_alive: bool = True


class World:
    """Simulated pods. A request's `method` may be a number: its task then makes one call of the same function with a
    number one less and waits for it, which is how recursion is simulated."""

    def __init__(self, random: Random, times: Times, faults: Faults, record: Record) -> None:
        self._random = random
        self._times = times
        self._faults = faults
        self._record = record
        self._pods: dict[str, SimulatedPod] = {}
        self._templates_s: dict[str, float] = {}
        self._templates: dict[str, SimulatedTemplate] = {}
        self._specs: dict[str, FunctionSpec] = {}
        self._callers: dict[str, actions.SendTask] = {}
        """Tasks that wait for a call, by the request id of the call."""
        self._chunks = ChunkRuns(self._duration_s, lambda: self._happens(faults.task_raises))

    def is_alive(self, pod_id: str) -> bool:
        return pod_id in self._pods

    def before(self, event: Event, now_s: float) -> None:
        """Take note of what is about to be true."""
        self._record.note_event(event, now_s)
        if isinstance(event, events.FunctionDefined):
            self._specs[event.function_id] = event.spec
        elif isinstance(event, events.PodLost | events.PodStartFailed):
            self._pods.pop(event.pod_id, None)
        elif isinstance(event, events.TemplateLost):
            self._templates[event.template_id].is_alive = False
        elif isinstance(event, events.TaskFinished):
            for pod in self._pods.values():
                pod.tasks.pop(event.task_id, None)

    def consequences(self, action: Action, now_s: float) -> Iterator[Occurrence]:
        self._record.note_action(action, now_s)
        match action:
            case actions.StartPod():
                yield from self._start(action, now_s)
            case actions.StartTemplate():
                yield from self._start_template(action, now_s)
            case actions.StopTemplate():
                if self._templates[action.template_id].is_alive:
                    yield from self._end_template(action.template_id, now_s)
            case actions.BindPod():
                yield from self._bind(action, now_s)
            case actions.SendTask():
                yield from self._run(action, now_s)
            case actions.SendChunk():
                yield from self._run_chunk(action, now_s)
            case actions.SendRecall():
                yield from self._chunks.recall(action, now_s)
            case actions.ForgetChunk():
                self._forget_chunk(action.task_id)
            case actions.SendCancel():
                yield from self._cancel(action, now_s)
            case actions.KillPod():
                self._pods[action.pod_id].tasks.clear()
                yield from self._end(action.pod_id, now_s, "killed", -9)
            case actions.StopPod():
                assert not self._pods[action.pod_id].tasks, f"{action.pod_id} was stopped under its tasks"
                yield from self._end(action.pod_id, now_s, "stopped", 0)
            case actions.FinishRequest():
                yield from self._resume_caller(action.request_id, now_s)

    def _draw(self, bounds: Range) -> float:
        return self._random.uniform(*bounds)

    def _happens(self, probability: float) -> bool:
        return probability > 0.0 and self._random.random() < probability

    def _start(self, action: actions.StartPod, now_s: float) -> Iterator[Occurrence]:
        """The first pod of an environment waits for its template, as all that come before it is ready."""
        if action.environment not in self._templates_s:
            self._templates_s[action.environment] = now_s + self._draw(self._times.template_s)
        if action.template_id:
            yield from self._fork_bound(action, now_s)
            return
        at_s = max(now_s, self._templates_s[action.environment]) + self._draw(self._times.fork_s)
        self._pods[action.pod_id] = SimulatedPod(action.pod_id, action.environment)
        if self._happens(self._faults.start_fails):
            yield Occurrence(at_s, events.PodStartFailed(action.pod_id, "fork failed"), action.pod_id)
        else:
            pid = int(action.pod_id.rpartition("-")[2])
            yield Occurrence(at_s, events.PodConnected(action.pod_id, pid), action.pod_id)

    def _fork_bound(self, action: actions.StartPod, now_s: float) -> Iterator[Occurrence]:
        """From a template that has loaded the function: bound as soon as it connects."""
        template = self._templates[action.template_id]
        at_s = now_s + self._draw(self._times.fork_s)
        self._pods[action.pod_id] = SimulatedPod(action.pod_id, action.environment, template.function_id)
        if not template.is_alive or self._happens(self._faults.start_fails):
            yield Occurrence(at_s, events.PodStartFailed(action.pod_id, "fork failed"), action.pod_id)
            return
        pid = int(action.pod_id.rpartition("-")[2])
        yield Occurrence(at_s, events.PodConnected(action.pod_id, pid), action.pod_id)
        ready = events.ExecutorReady(action.pod_id, template.function_id, template.slots)
        yield Occurrence(at_s, ready, action.pod_id)

    def _start_template(self, action: actions.StartTemplate, now_s: float) -> Iterator[Occurrence]:
        template_id = action.template_id
        self._templates[template_id] = SimulatedTemplate(action.function_id, action.spec.scaling.max_inputs)
        at_s = now_s + self._draw(self._times.fork_s) + self._draw(self._times.bind_s)
        if self._happens(self._faults.bind_dies):
            self._templates[template_id].is_alive = False
            yield Occurrence(at_s, events.TemplateLost(template_id, "died in its import"))
        elif self._happens(self._faults.bind_fails):
            self._templates[template_id].is_alive = False
            yield Occurrence(at_s, events.TemplateFailed(template_id, "ImportError: nothing there"))
        elif self._happens(self._faults.template_refused):
            self._templates[template_id].is_alive = False
            yield Occurrence(at_s, events.TemplateRefused(template_id, "thread 'poller' is alive"))
        else:
            yield Occurrence(at_s, events.TemplateReady(template_id, int(template_id.rpartition("-")[2])))
            if self._happens(self._faults.template_dies):
                yield from self._end_template(template_id, at_s + self._draw((0.0, 1.0)))

    def _end_template(self, template_id: str, at_s: float) -> Iterator[Occurrence]:
        yield Occurrence(at_s, events.TemplateLost(template_id, "killed by SIGKILL"))

    def _bind(self, action: actions.BindPod, now_s: float) -> Iterator[Occurrence]:
        at_s = now_s + self._draw(self._times.bind_s)
        self._pods[action.pod_id].function_id = action.function_id
        if self._happens(self._faults.bind_dies):
            yield Occurrence(at_s, events.PodLost(action.pod_id, "died in its import", 1), action.pod_id)
        elif self._happens(self._faults.bind_fails):
            failed = events.ExecutorFailed(action.pod_id, action.function_id, "ImportError: nothing there")
            yield Occurrence(at_s, failed, action.pod_id)
        else:
            slots, load_ms = action.spec.scaling.max_inputs, (at_s - now_s) * 1e3
            ready = events.ExecutorReady(action.pod_id, action.function_id, slots, load_ms)
            yield Occurrence(at_s, ready, action.pod_id)

    def _run(self, task: actions.SendTask, now_s: float) -> Iterator[Occurrence]:
        pod = self._pods.get(task.pod_id)
        if pod is None:
            return  # its loss is on the way to the cores
        pod.tasks[task.task_id] = task
        duration_s = self._duration_s()
        if self._happens(self._faults.task_dies):
            at_s = now_s + duration_s * self._random.random()
            lost = events.PodLost(pod.pod_id, "", -11)
            yield Occurrence(at_s, lost, pod.pod_id)
            if self._happens(self._faults.lost_twice):
                yield Occurrence(at_s + 0.01, lost)
        if self._happens(self._faults.task_hangs):
            pod.stuck.add(task.task_id)
            return
        if task.kind == "stream":
            yield from self._produce(task, now_s, duration_s)
        elif task.method.isdigit() and int(task.method) > 0:
            yield from self._call_inside(task, now_s)
        else:
            yield from self._finish(task, now_s + duration_s, duration_s)

    def _duration_s(self) -> float:
        if self._happens(self._times.long_share):
            return self._draw(self._times.long_s)
        mean_s = self._times.task_mean_s
        return self._random.expovariate(1.0 / mean_s) if mean_s else self._draw(self._times.task_s)

    def _run_chunk(self, chunk: actions.SendChunk, now_s: float) -> Iterator[Occurrence]:
        pod = self._pods.get(chunk.pod_id)
        if pod is None:
            return
        pod.tasks[chunk.task_id] = chunk
        told = list(self._chunks.start(chunk, now_s))
        if self._happens(self._faults.task_dies):
            at_s = now_s + (told[-1].at_s - now_s) * self._random.random()
            begun = self._chunks.begun_on(chunk.pod_id, at_s)
            yield Occurrence(at_s, events.PodLost(chunk.pod_id, "", -11, begun), chunk.pod_id)
        yield from told

    def _forget_chunk(self, task_id: str) -> None:
        self._chunks.forget(task_id)
        for pod in self._pods.values():
            pod.tasks.pop(task_id, None)

    def _produce(self, task: actions.SendTask, now_s: float, duration_s: float) -> Iterator[Occurrence]:
        for offset in range(3):
            now_s += self._draw(self._times.item_s)
            yield Occurrence(now_s, events.TaskProduced(task.task_id, task.attempt, offset), task.pod_id)
        yield from self._finish(task, now_s + duration_s, duration_s)

    def _call_inside(self, task: actions.SendTask, now_s: float) -> Iterator[Occurrence]:
        child = events.RequestArrived(
            f"{task.request_id}.{task.attempt}", task.pod_id, task.function_id,
            method=str(int(task.method) - 1), parent_task_id=task.task_id,
        )  # fmt: skip
        self._callers[child.request_id] = task
        yield Occurrence(now_s + 0.001, child, task.pod_id)
        yield Occurrence(now_s + 0.001, events.TaskBlocked(task.task_id), task.pod_id)

    def _resume_caller(self, request_id: str, now_s: float) -> Iterator[Occurrence]:
        task = self._callers.pop(request_id, None)
        pod = self._pods.get(task.pod_id) if task else None
        if task is None or pod is None or pod.tasks.get(task.task_id) is not task:
            return
        yield Occurrence(now_s + 0.001, events.TaskResumed(task.task_id), pod.pod_id)
        yield from self._finish(task, now_s + 0.002, 0.002)

    def _finish(self, task: actions.SendTask, at_s: float, duration_s: float) -> Iterator[Occurrence]:
        raises = self._happens(self._faults.task_raises)
        outcome = Outcome("error", "ConnectionError") if raises else Outcome("ok")
        count = 3 if task.kind == "stream" else 0
        finished = events.TaskFinished(
            task.task_id, task.attempt, outcome, duration_s * 1e3, task.payload, count, may_retry=raises
        )
        yield Occurrence(at_s, finished, task.pod_id)
        if self._happens(self._faults.finish_twice):
            yield Occurrence(at_s + self._random.random(), finished)

    def _cancel(self, action: actions.SendCancel, now_s: float) -> Iterator[Occurrence]:
        """The pod confirms. Code that does not hang stops 2 ms later, or its result is already on the way."""
        pod = self._pods.get(action.pod_id)
        if pod is None or action.task_id not in pod.tasks:
            return
        yield Occurrence(now_s + 0.001, events.CancelReceived(action.task_id, action.attempt), pod.pod_id)
        if action.task_id in pod.stuck:
            return
        if isinstance(pod.tasks[action.task_id], actions.SendChunk):
            yield from self._chunks.cancel(action, now_s)
            return
        stopped = events.TaskFinished(action.task_id, action.attempt, Outcome("cancelled"), 1.0)
        yield Occurrence(now_s + 0.002, stopped, pod.pod_id)

    def _end(self, pod_id: str, now_s: float, reason: str, exit_code: int) -> Iterator[Occurrence]:
        if pod_id in self._pods:
            yield Occurrence(now_s + self._draw(self._times.stop_s), events.PodLost(pod_id, reason, exit_code), pod_id)
