"""A world that does everything a world may do, at random, and checks what the cores order it to do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import EngineReport, Outcome, PodMemory, RequestKind, Weights
from deepserve.protocol.prompt_blocks import PromptBlocks
from deepserve.protocol.specs import FunctionSpec, RetrySpec
from deepserve_controller.build import build_cluster_manager, build_job_executor
from deepserve_controller.core import actions, events
from deepserve_controller.core.actions import Action, Notify
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.events import Event, Payload
from tests.unit.deepserve_controller.chaos_chunks import ChunkWorld, PodChunk, many_inputs
from tests.unit.deepserve_controller.harness import OK, Driven, spec

FUNCTIONS: dict[str, FunctionSpec] = {
    "fn-one": spec("one", max_pods=2, scaledown_window_s=2.0, timeout_s=3.0),
    "fn-two": spec(
        "two",
        max_inputs=2,
        target_inputs=1,
        buffer_pods=1,
        max_pods=3,
        scaledown_window_s=1.0,
        retries=RetrySpec(2, initial_delay_s=0.2),
        replay="resume",
        idle_timeout_s=0.3,
        queue_timeout_s=4.0,
    ),
    "fn-snap": spec(
        "snap", kind="class", snap=True, max_pods=3, scaledown_window_s=1.0, startup_timeout_s=2.0, max_inputs=2
    ),
    "fn-burst": spec("burst", max_pods=8, scaledown_window_s=1.0),
    "fn-model": spec(
        "model",
        kind="model",
        environment="flowserve",
        max_inputs=4,
        max_pods=2,
        tokenizer="fn-tok",
        startup_timeout_s=5.0,
    ),
    "fn-tok": spec("tok", kind="tokenizer", environment="tokenizer", max_inputs=2, max_pods=1),
}


CALLED = list(FUNCTIONS)
WEIGHTS_BYTES = 10**9
WEIGHTS_MIB = -(-WEIGHTS_BYTES >> 20)
MEMORY = PodMemory(kv_bytes=300 << 20, least_kv_bytes=40 << 20)
"""Of a pod of the model."""


class JobsFirst(Cores):
    """Events for both go to the job executor first, as a driver is free to do."""

    def handle(self, event: Event, now_s: float) -> list[Action]:
        ordered: list[Action] = []
        inbox = deque([(True, event), (False, event)])
        while inbox:
            is_for_jobs, item = inbox.popleft()
            core = self.job_executor if is_for_jobs else self.cluster_manager
            for action in core.handle(item, now_s):
                if isinstance(action, Notify):
                    inbox.append((not is_for_jobs, action.event))
                else:
                    ordered.append(action)
        return ordered


@dataclass
class ChaosPod:
    state: str = "starting"
    function_id: str = ""
    template_id: str = ""
    slots: int = 0
    may_still_answer: bool = False
    """Killed while it bound: its last frame may be on the way."""
    tasks: dict[str, actions.SendTask | actions.SendChunk] = field(default_factory=dict)
    chunks: dict[str, PodChunk] = field(default_factory=dict)
    """Those of the tasks that are chunks."""
    recalled: list[str] = field(default_factory=list)
    blocked: set[str] = field(default_factory=set)
    resumed: set[str] = field(default_factory=set)


@dataclass
class ChaosTemplate:
    """Of a function; `state` loading, ready, or gone without the cores' knowledge."""

    function_id: str
    state: str = "loading"


class Chaos:
    def __init__(self, seed: int, are_jobs_first: bool) -> None:
        self.random = Random(seed)
        ids = IdAllocator()
        kind = JobsFirst if are_jobs_first else Cores
        # Every third world is a small host: room for the model's template and one or two of its pods, one of its
        # tokenizer and four others; in some of them there is too little even for one pod.
        usable_mib = (
            2 * 256 + WEIGHTS_MIB + self.random.choice([-200, 0, 100, 400]) + 64 + 4 * 16 if seed % 3 == 0 else 0
        )
        cluster_manager = build_cluster_manager(ids, 3, {"python": 1}, usable_mib=usable_mib)
        self.cores = kind(build_job_executor(ids, Random(seed)), cluster_manager)
        self.driven = Driven(self.cores)
        self.pods: dict[str, ChaosPod] = {}
        self.templates: dict[str, ChaosTemplate] = {}
        self.requests: dict[str, events.RequestArrived] = {}
        self.finished: dict[str, actions.FinishRequest] = {}
        self.items: set[tuple[str, int]] = set()
        self.map_inputs: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.produced: dict[str, int] = {}
        self.cancelled: list[tuple[str, int]] = []
        self.chunks = ChunkWorld(self.random)
        self.old_chunk_news: list[Event] = []
        self.old: list[events.TaskFinished] = []
        self.ended: set[tuple[str, int]] = set()
        self.give(events.ControllerStarted())
        for function_id, function in FUNCTIONS.items():
            self.give(events.FunctionDefined(function_id, function, WEIGHTS_BYTES))

    # --- what the cores order ---------------------------------------------------------------------------

    def give(self, event: Event) -> None:
        self.carry_out(self.driven(event))

    def carry_out(self, ordered: list[Action]) -> None:
        for action in ordered:
            match action:
                case actions.StartPod():
                    assert action.pod_id not in self.pods
                    self.start_pod(action)
                case actions.StartTemplate():
                    loading = [
                        template for template in self.templates.values()
                        if template.function_id == action.function_id and template.state == "loading"
                    ]  # fmt: skip
                    assert not loading, f"{action.function_id} is loaded twice"
                    self.templates[action.template_id] = ChaosTemplate(action.function_id)
                case actions.StopTemplate():
                    forked = [pod for pod in self.pods.values() if pod.template_id == action.template_id]
                    assert not forked, f"{action.template_id} was ended under its pods {forked}"
                    del self.templates[action.template_id]
                case actions.BindPod():
                    pod = self.pods[action.pod_id]
                    assert pod.state == "warm", f"{action.pod_id} is bound while {pod.state}"
                    pod.state, pod.function_id = "binding", action.function_id
                case actions.SendTask() | actions.SendChunk():
                    self.start_task(action)
                case actions.SendRecall():
                    assert action.task_id in self.pods[action.pod_id].chunks, f"{action.task_id} is no chunk there"
                    self.pods[action.pod_id].recalled.append(action.task_id)
                case actions.StopPod():
                    assert not self.pods[action.pod_id].tasks, f"{action.pod_id} was stopped under its tasks"
                    self.pods[action.pod_id].state = "ending"
                case actions.KillPod():
                    pod = self.pods[action.pod_id]
                    self.end_tasks(pod)
                    pod.may_still_answer = pod.state == "binding"
                    pod.state = "ending"
                case actions.FinishItem():
                    self.finish_item(action.request_id, action.index)
                case actions.FinishItems():
                    self.chunks.check_items(action)
                    for position in range(len(action.sizes)):
                        self.finish_item(action.request_id, action.first_index + position)
                case actions.FinishRequest():
                    assert action.request_id in self.requests
                    assert action.request_id not in self.finished, f"{action.request_id} was finished twice"
                    self.finished[action.request_id] = action
                    attempt = (action.timings.task_id, action.timings.attempts)
                    is_result = action.outcome.is_ok and self.requests[action.request_id].kind != "map"
                    assert not is_result or attempt in self.ended, f"{attempt} did not end, but its result is there"
                case actions.SendCancel():
                    assert action.task_id in self.pods[action.pod_id].tasks, f"{action.task_id} is not there"
                    self.cancelled.append((action.task_id, action.attempt))
                case actions.SendCredit():
                    assert action.task_id in self.pods[action.pod_id].tasks, f"{action.task_id} is not there"

    def start_pod(self, action: actions.StartPod) -> None:
        pod = self.pods[action.pod_id] = ChaosPod(template_id=action.template_id)
        if action.template_id:
            template = self.templates[action.template_id]
            assert template.state != "loading", f"{action.pod_id} is forked from {template}"
            pod.function_id = template.function_id

    def finish_item(self, request_id: str, index: int) -> None:
        assert request_id not in self.finished
        assert (request_id, index) not in self.items, f"input {index} of {request_id} was finished twice"
        self.items.add((request_id, index))

    def start_task(self, task: actions.SendTask | actions.SendChunk) -> None:
        pod = self.pods[task.pod_id]
        for name in self.requests[task.request_id].depends_on:
            assert self.finished[name].outcome.is_ok, f"{task.request_id} runs without the result of {name}"
        assert pod.state == "bound" and pod.function_id == task.function_id, f"{task.task_id} sent to {pod}"
        is_of_map = self.requests[task.request_id].kind == "map"
        num_before = int(is_of_map and task.attempt == 2)  # its first attempt may have been in a chunk, another task
        assert task.attempt == self.attempts.get(task.task_id, num_before) + 1
        if isinstance(task, actions.SendTask):
            assert task.resume_offset == self.produced.get(task.task_id, 0), f"{task.task_id} resumes elsewhere"
            assert not task.resume_offset or task.replay, f"{task.task_id} is run again after it passed items on"
        self.attempts[task.task_id] = task.attempt
        pod.tasks[task.task_id] = task
        if isinstance(task, actions.SendChunk):
            pod.chunks[task.task_id] = self.chunks.begin_chunk(task)
        elif self.requests[task.request_id].kind == "map" and task.kind == "map":
            self.chunks.begin(task.request_id, task.index, task.attempt)
        assert len(pod.tasks) - len(pod.blocked) <= pod.slots + len(pod.resumed), f"{task.pod_id} has too much"

    # --- what happens -----------------------------------------------------------------------------------

    def step(self) -> None:
        deeds: list[tuple[int, Callable[[], None]]] = [
            (12, self.request),
            (8, self.map_input),
            (3, self.end_map),
            (30, self.pod_comes_up),
            (25, self.task_goes_on),
            (15, self.answer_recall),
            (4, self.repeat_old_news),
            (4, self.cancel),
            (4, self.confirm_cancel),
            (2, self.lose_pod),
            (8, self.template_comes_up),
            (1, self.lose_template),
            (2, self.grant_credit),
            (2, self.engine_tells),
            (1, self.close_link),
            (1, self.change_scaling),
            (1, self.remove_or_define),
            (10, self.pass_time),
        ]
        [deed] = self.random.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])
        deed()

    def request(self) -> None:
        number = len(self.requests) + 1
        running = [task for pod in self.pods.values() for task in pod.tasks.values()]
        parent = self.random.choice(running) if running and self.random.random() < 0.3 else None
        if parent is not None and not self.can_call(parent):
            parent = None
        kind: RequestKind = self.random.choice(["call", "call", "call", "stream", "map"])
        depends_on = self.dependencies() if kind != "map" else ()
        request = events.RequestArrived(
            f"rq-{number}",
            parent.pod_id if parent else f"link-{self.random.randint(1, 3)}",
            self.random.choice(CALLED if number % 7 else [*CALLED, "fn-unknown"]),
            kind,
            parent_task_id=parent.task_id if parent else "",
            timeout_s=self.random.choice([0.0, 0.0, 1.5]),
            keep=self.random.random() < 0.2,
            depends_on=depends_on,
        )  # fmt: skip
        self.requests[request.request_id] = request
        if request.kind == "map":
            self.map_inputs[request.request_id] = 0
        self.give(request)
        if parent is not None and self.random.random() < 0.8:
            self.block(parent)

    def dependencies(self) -> tuple[str, ...]:
        """Calls that are mostly unfinished; now and then one that nobody knows any more."""
        calls = [name for name, rq in self.requests.items() if name not in self.finished and rq.kind != "map"]
        if self.random.random() < 0.02:
            calls = [*self.finished, "rq-0"]
        return tuple(self.random.sample(calls, min(len(calls), self.random.choice([0, 0, 0, 1, 2]))))

    def map_input(self) -> None:
        if self.map_inputs:
            request_id = self.random.choice(list(self.map_inputs))
            first_index = self.map_inputs[request_id]
            if self.random.random() < 0.3:
                self.map_inputs[request_id] += 1
                # Of older requests only, as the service has it: what waits for itself would wait for ever.
                older = tuple(name for name in self.dependencies() if int(name[3:]) < int(request_id[3:]))
                self.give(events.MapInputArrived(request_id, first_index, Payload(), older))
            else:
                count = self.random.randint(1, 12)
                self.map_inputs[request_id] += count
                self.give(many_inputs(request_id, first_index, count))

    def end_map(self) -> None:
        if self.map_inputs:
            request_id = self.random.choice(list(self.map_inputs))
            self.give(events.MapInputsEnded(request_id, self.map_inputs.pop(request_id)))

    def pod_comes_up(self, only_well: bool = False) -> None:
        waiting = [pod_id for pod_id, pod in self.pods.items() if pod.state in ("starting", "binding", "ending")]
        if not waiting:
            return
        pod_id = self.random.choice(waiting)
        pod, luck = self.pods[pod_id], 1.0 if only_well else self.random.random()
        if pod.may_still_answer:
            pod.may_still_answer = False
            self.give(events.ExecutorReady(pod_id, pod.function_id, 1))
        elif pod.state == "ending" or luck < 0.05:
            self.lose(pod_id)
        elif pod.state == "starting" and luck < 0.1:
            del self.pods[pod_id]
            self.give(events.PodStartFailed(pod_id, "fork failed"))
        elif pod.state == "starting":
            pod.state = "binding" if pod.template_id else "warm"
            self.give(events.PodConnected(pod_id, 1))
        elif luck < 0.15:
            self.give(events.ExecutorFailed(pod_id, pod.function_id, "ImportError"))
        else:
            pod.state, pod.slots = "bound", max(1, FUNCTIONS[pod.function_id].scaling.max_inputs)
            weights = Weights(WEIGHTS_BYTES, is_arriving=len(self.pods) % 2 == 0)
            is_model = FUNCTIONS[pod.function_id].kind == "model"
            memory = MEMORY if is_model else PodMemory()
            self.give(events.ExecutorReady(pod_id, pod.function_id, pod.slots, weights=weights, memory=memory))
            if len(self.pods) % 4 == 0:
                self.give(events.WeightsRead(pod_id, 500.0))

    def template_comes_up(self, only_well: bool = False) -> None:
        loading = [template_id for template_id, template in self.templates.items() if template.state == "loading"]
        if not loading:
            return
        template_id = self.random.choice(loading)
        luck = 1.0 if only_well else self.random.random()
        if luck >= 0.3:
            self.templates[template_id].state = "ready"
            is_model = FUNCTIONS[self.templates[template_id].function_id].kind == "model"
            told = {"weights": Weights(WEIGHTS_BYTES), "memory": MEMORY} if is_model else {}
            self.give(events.TemplateReady(template_id, 1, **told))
            return
        del self.templates[template_id]
        if luck < 0.1:
            self.give(events.TemplateLost(template_id, "killed by SIGKILL"))
        elif luck < 0.2:
            self.give(events.TemplateRefused(template_id, "thread 'poller' is alive"))
        else:
            self.give(events.TemplateFailed(template_id, "ImportError"))

    def lose_template(self) -> None:
        """Its pods are lost too, each told on its own."""
        if not self.templates:
            return
        template_id = self.random.choice(list(self.templates))
        del self.templates[template_id]
        self.give(events.TemplateLost(template_id, "killed by SIGKILL"))
        for pod_id in [pod_id for pod_id, pod in self.pods.items() if pod.template_id == template_id]:
            self.lose(pod_id)

    def task_goes_on(self, only_well: bool = False) -> None:
        running = [task for pod in self.pods.values() if pod.state == "bound" for task in pod.tasks.values()]
        if not running:
            return
        task = self.random.choice(running)
        pod, luck = self.pods[task.pod_id], 1.0 if only_well else self.random.random()
        if isinstance(task, actions.SendChunk) and (luck >= 0.1 or task.task_id in pod.blocked):
            return self.chunk_goes_on(pod, task.task_id, luck, only_well)
        if luck < 0.1:
            if self.can_call(task):
                self.block(task)
        elif luck < 0.25 and task.kind == "stream":
            at, num_items = self.produced.get(task.task_id, 0), self.random.randint(1, 40)
            self.produced[task.task_id] = at + num_items
            self.give(events.TaskProduced(task.task_id, task.attempt, at, num_items, num_items * 1000))
        elif task.task_id in pod.blocked and luck < 0.6:
            pod.blocked.discard(task.task_id)
            pod.resumed.add(task.task_id)
            self.give(events.TaskResumed(task.task_id))
        else:
            for tasks in (pod.blocked, pod.resumed):
                tasks.discard(task.task_id)
            del pod.tasks[task.task_id]
            raises = luck < 0.35
            outcome = Outcome("error", "ValueError") if raises else Outcome("ok")
            names = self.random.randbytes(8 * self.random.randrange(4))
            prompt = PromptBlocks(self.random.randrange(200), names) if luck < 0.9 else None
            finished = events.TaskFinished(task.task_id, task.attempt, outcome, 0.1, may_retry=raises, prompt=prompt)
            self.old.append(finished)
            self.ended.add((task.task_id, task.attempt))
            self.give(finished)

    def chunk_goes_on(self, pod: ChaosPod, task_id: str, luck: float, only_well: bool) -> None:
        if task_id in pod.blocked:
            pod.blocked.discard(task_id)
            pod.resumed.add(task_id)
            return self.give(events.TaskResumed(task_id))
        chunk = pod.chunks[task_id]
        is_cancelled = (task_id, chunk.order.attempt) in self.cancelled
        obeys = is_cancelled and (only_well or luck < 0.6)
        self.tell(pod, chunk, self.chunks.obey_cancel(chunk) if obeys else self.chunks.steps(chunk, only_well))

    def answer_recall(self) -> None:
        for pod in self.pods.values():
            if pod.state == "bound" and pod.recalled:
                chunk = pod.chunks.get(pod.recalled.pop())
                if chunk is not None:
                    return self.tell(pod, chunk, self.chunks.answer_recall(chunk))

    def tell(self, pod: ChaosPod, chunk: PodChunk, told: Iterable[Event]) -> None:
        """What a pod tells of a chunk leaves it in this order, unless it is killed meanwhile."""
        news = list(told)
        for event in news:
            if chunk.is_over and event is news[-1]:
                for there in (pod.blocked, pod.resumed):
                    there.discard(chunk.order.task_id)
                pod.chunks.pop(chunk.order.task_id, None)
                pod.tasks.pop(chunk.order.task_id, None)
            self.old_chunk_news.append(event)
            self.give(event)

    def can_call(self, task: actions.SendTask | actions.SendChunk) -> bool:
        """Whether its code runs, so that it can make calls."""
        chunk = self.pods[task.pod_id].chunks.get(task.task_id)
        return chunk is None or (not chunk.is_over and self.chunks.has_input_that_calls(chunk, self.give))

    def block(self, task: actions.SendTask | actions.SendChunk) -> None:
        pod = self.pods.get(task.pod_id)
        if pod is not None and task.task_id in pod.tasks:
            pod.blocked.add(task.task_id)
            pod.resumed.discard(task.task_id)
            self.give(events.TaskBlocked(task.task_id))

    def repeat_old_news(self) -> None:
        if self.old:
            self.give(self.random.choice(self.old[-6:]))
        if self.old_chunk_news:
            self.give(self.random.choice(self.old_chunk_news[-6:]))
        self.give(events.PodLost("pod-0", "lost before"))

    def cancel(self) -> None:
        if self.requests:
            self.give(events.RequestCancelled(self.random.choice(list(self.requests)), self.random.random() < 0.3))

    def confirm_cancel(self) -> None:
        """Some pods confirm that they were told to stop a task, some do not."""
        if self.cancelled:
            self.give(events.CancelReceived(*self.cancelled.pop()))

    def lose_pod(self) -> None:
        if self.pods:
            self.lose(self.random.choice(list(self.pods)))

    def lose(self, pod_id: str) -> None:
        if self.random.random() < 0.5:  # its connection ended first
            self.give(events.PodDrainStarted(pod_id))
        pod = self.pods.pop(pod_id)
        begun = {(task_id, chunk.order.attempt): chunk.num_begun for task_id, chunk in pod.chunks.items()}
        self.end_tasks(pod)
        lost = events.PodLost(pod_id, "", self.random.choice([None, 1, -9]), begun)
        self.give(lost)
        if self.random.random() < 0.2:
            self.give(lost)
        self.give(events.LinkClosed(pod_id))

    def end_tasks(self, pod: ChaosPod) -> None:
        """Its last words may come after its end."""
        self.old += [events.TaskFinished(task.task_id, task.attempt, OK, 1.0) for task in pod.tasks.values()]
        pod.tasks.clear()
        pod.chunks.clear()

    def engine_tells(self) -> None:
        """Also of what nobody asked for, and pods that are no engines."""
        if self.pods:
            pod_id = self.random.choice(list(self.pods))
            names = [self.random.randbytes(8 * self.random.randrange(4)) for _ in range(4)]
            began = tuple(self.pods[pod_id].tasks)[:1]
            report = EngineReport(*names, began, 3, self.random.random() * 100, 40, 20.0)
            self.give(events.EngineReported(pod_id, report))

    def grant_credit(self) -> None:
        if self.requests:
            self.give(events.CreditGranted(self.random.choice(list(self.requests)), 5))

    def close_link(self) -> None:
        self.give(events.LinkClosed(f"link-{self.random.randint(1, 3)}"))

    def change_scaling(self) -> None:
        min_pods, max_pods = self.random.choice([(0, 1), (1, 2), (0, 3), (0, 0)])
        buffer_pods, window_s = self.random.choice([None, 0, 2]), self.random.choice([None, 0.0, 1.5])
        function_id = self.random.choice(list(FUNCTIONS))
        self.give(events.ScalingChanged(function_id, min_pods, max_pods, buffer_pods, window_s))

    def remove_or_define(self) -> None:
        function_id = self.random.choice(list(FUNCTIONS))
        if self.random.random() < 0.3:
            self.give(events.FunctionRemoved(function_id))
        self.give(events.FunctionDefined(function_id, FUNCTIONS[function_id], WEIGHTS_BYTES))

    def pass_time(self) -> None:
        self.carry_out(self.driven.advance(self.random.choice([0.01, 0.1, 0.5, 1.2])))

    # --- the end ----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """From now on all goes well: everything that was begun must come to its end."""
        for function_id in FUNCTIONS:
            self.give(events.FunctionDefined(function_id, FUNCTIONS[function_id], WEIGHTS_BYTES))
            self.give(events.ScalingChanged(function_id, 0, 3))
        while self.map_inputs:
            self.end_map()
        for _ in range(5000):
            self.pod_comes_up(only_well=True)
            self.template_comes_up(only_well=True)
            self.task_goes_on(only_well=True)
            self.carry_out(self.driven.advance(0.02))
            if len(self.finished) == len(self.requests):
                break
        missing = self.requests.keys() - self.finished.keys()
        assert not missing, f"never finished: {[self.requests[request_id] for request_id in sorted(missing)]}"
        for _ in range(3000):
            self.pod_comes_up(only_well=True)
            self.template_comes_up(only_well=True)
            self.task_goes_on(only_well=True)
            self.carry_out(self.driven.advance(0.1))
            if all(pod.state == "warm" for pod in self.pods.values()) and not self.templates:
                return
        raise AssertionError(f"pods are left: {self.cores.cluster_manager.pods_view()}")
