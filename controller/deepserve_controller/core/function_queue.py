"""FunctionQueue: a function's waiting tasks and the bound pods that may take them."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from deepserve.protocol.prompt_blocks import BLOCK_TOKENS
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.engine_book import EngineBook
from deepserve_controller.core.events import DemandChanged
from deepserve_controller.core.map_inputs import MapInputs
from deepserve_controller.core.run_times import RunTimes
from deepserve_controller.core.task import Task


class ExecutorRecord(msgspec.Struct, eq=False):
    """A bound pod as the job executor sees it. `load` may pass `slots` for a while: tasks that resume take theirs."""

    pod_id: str
    function: FunctionQueue
    slots: int
    load: int = 0
    tasks: dict[str, Task] = {}
    stuck: dict[str, int] = {}
    """Tasks that ended for their callers and whose code runs on, with their attempts: the pod is killed for them."""
    is_draining: bool = False
    is_told_busy: bool = False


class FunctionQueue(msgspec.Struct, eq=False):
    """FIFO. An OrderedDict, because tasks leave from the middle (cancel) and from the front, both in O(1)."""

    function_id: str
    spec: FunctionSpec
    label: str
    slots: int
    """Of one pod: as its executors say, before the first one `max_inputs`."""
    is_removed: bool = False
    waiting: OrderedDict[str, Task] = msgspec.field(default_factory=OrderedDict)
    maps: OrderedDict[str, MapInputs] = msgspec.field(default_factory=OrderedDict)
    """By request id, those of whose inputs some wait: each gives a chunk in its turn."""
    num_map_inputs: int = 0
    """Of all of them together: asked at every event, with thousands of maps waiting."""
    is_turn_of_maps: bool = False
    """Tasks that wait and maps take turns, so that a call does not wait for all that a map has sent."""
    run_times: RunTimes = msgspec.field(default_factory=RunTimes)
    routable: dict[str, ExecutorRecord] = {}
    """Pods that may get tasks, in the order of their ids."""
    expected: dict[str, Task] = {}
    """Tasks of other functions whose result a task of this one will take."""
    demanded_ahead: dict[str, Task] = {}
    """Those of them that count as demand before that."""
    running: int = 0
    """Slots held by tasks, on draining pods too."""
    target: int = 0
    """Tasks of one pod that scaling aims at; set with `slots`."""
    reported_queued: int = 0
    reported_pods: int = 0
    engines: EngineBook | None = None
    """Of a model: what routing and scaling know of its engines."""
    queued_tokens: int = 0
    """Of the prompts that wait."""
    reported_tokens: int = 0

    def __post_init__(self) -> None:
        self.set_slots(self.slots)

    def set_slots(self, slots: int) -> None:
        self.slots = slots
        self.target = min(self.spec.scaling.target_inputs or slots, slots)

    @property
    def may_need_other_pods(self) -> bool:
        """What runs may call for more pods, or let some go, though nothing waits."""
        return self.slots > 1 and (self.running > self.target or self.reported_pods > 1)

    def add_executor(self, executor: ExecutorRecord) -> None:
        self.routable[executor.pod_id] = executor
        if len(self.routable) > 1:
            self.routable = {pod_id: self.routable[pod_id] for pod_id in sorted(self.routable, key=_pod_order)}

    def push(self, task: Task, first: bool = False) -> None:
        self.waiting[task.task_id] = task
        if task.prompt is not None:
            self.queued_tokens += task.prompt.num_tokens
        if first:
            self.waiting.move_to_end(task.task_id, last=False)

    def pop(self, task_id: str) -> Task:
        """Take a task out, the first or one that will not run."""
        task = self.waiting.pop(task_id)
        if task.prompt is not None:
            self.queued_tokens -= task.prompt.num_tokens
        return task

    @property
    def num_waiting(self) -> int:
        """Tasks, and inputs that are to become tasks."""
        return len(self.waiting) + self.num_map_inputs

    @property
    def num_slots(self) -> int:
        """Of the pods that may get tasks."""
        return sum(executor.slots for executor in self.routable.values())

    def demand(self) -> tuple[int, int]:
        """(queued, pods that queued and running tasks fill up to their target).

        What is demanded ahead and will find a free slot does not count.
        """
        queued = self.num_waiting
        if self.demanded_ahead:
            num_free = sum(max(0, executor.slots - executor.load) for executor in self.routable.values())
            queued += max(0, len(self.demanded_ahead) - num_free)
        return queued, -(-(queued + self.running) // self.target)

    def demand_news(self, now_s: float) -> DemandChanged | None:
        """What changed materially since it was last told: any growth in pods needed, an eighth less, an empty queue;
        of a model also an eighth of the tokens that its engines have before them, and a block at least.

        A call that is routed at once changes nothing here, unless pods have several slots: then the cluster manager
        cannot see from busy and idle pods how many are needed.
        """
        queued, pods = self.demand()
        before = self.reported_pods
        in_flight = self.queued_tokens + self.engines.prefill_tokens if self.engines is not None else 0
        is_material = abs(in_flight - self.reported_tokens) > max(BLOCK_TOKENS, self.reported_tokens // 8)
        if queued or self.reported_queued or (self.slots > 1 and max(pods, before) > 1):
            is_material |= bool(queued) != bool(self.reported_queued) or pods > before or pods < before - before // 8
        if not is_material:
            return None
        self.reported_queued, self.reported_pods, self.reported_tokens = queued, pods, in_flight
        tokens = self.engines.token_load(self.queued_tokens, now_s) if self.engines is not None else None
        return DemandChanged(self.function_id, queued, self.running, self.oldest_arrival_s(), tokens)

    def oldest_arrival_s(self) -> float | None:
        for tasks in (self.waiting, self.demanded_ahead):
            for task in tasks.values():
                return task.arrived_s
        for inputs in self.maps.values():
            return inputs.runs[0].arrived_s
        return None


def _pod_order(pod_id: str) -> tuple[int, str]:
    """Sorts `pod-9` before `pod-10`: ids of one allocator in the order in which they were given."""
    return len(pod_id), pod_id
