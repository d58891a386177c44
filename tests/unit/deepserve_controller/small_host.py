"""A small host with models that do not fit together; pods, templates and callers do what they may do, at random."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import PodMemory, Weights
from deepserve.protocol.specs import FunctionSpec, Resources
from deepserve_controller.build import build_cluster_manager, build_job_executor
from deepserve_controller.core import actions, events
from deepserve_controller.core.actions import Action
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.events import Event
from tests.unit.deepserve_controller.harness import OK, Driven, spec

MIB = 1 << 20


@dataclass(frozen=True)
class Size:
    """Of a model, in MiB: its checkpoint, its weights when they are loaded, and the memory of each pod. embeds: each
    pod loads it for itself."""

    checkpoint: int
    weights: int
    kv: int
    least_kv: int
    private: int = 0
    embeds: bool = False

    @property
    def memory(self) -> PodMemory:
        return PodMemory(self.kv * MIB, self.least_kv * MIB, self.private * MIB)


SIZES = {
    "fn-small": Size(30, 30, 200, 20, 60),
    "fn-middle": Size(900, 500, 400, 400, 100),
    "fn-large": Size(1500, 1500, 600, 50),
    "fn-grows": Size(300, 420, 300, 100),
    "fn-embeds": Size(200, 0, 0, 0, 450, embeds=True),
    "fn-limited": Size(200, 200, 0, 0),
}
"""`fn-grows` has weights that are larger in memory than in their file."""


def model(name: str, **options: object) -> FunctionSpec:
    options = {"max_pods": 3, "max_inputs": 2, "scaledown_window_s": 3.0, **options}
    return spec(name, kind="model", environment="flowserve", startup_timeout_s=20.0, **options)


FUNCTIONS = {
    "fn-small": model("small", max_pods=8),
    "fn-middle": model("middle", tokenizer="fn-middle-tok"),
    "fn-large": model("large", tokenizer="fn-large-tok"),
    "fn-grows": model("grows"),
    "fn-embeds": model("embeds"),
    "fn-limited": model("limited", resources=Resources(memory_mib=700)),
    "fn-middle-tok": spec("mtok", kind="tokenizer", environment="tokenizer", max_inputs=2, max_pods=2),
    "fn-large-tok": spec("ltok", kind="tokenizer", environment="tokenizer", max_inputs=2, max_pods=2),
    "fn-code": spec("code", max_pods=4, scaledown_window_s=1.0),
    "fn-snap": spec("snap", kind="class", snap=True, max_pods=2, scaledown_window_s=1.0),
    "fn-big-code": spec("big", max_pods=2, scaledown_window_s=1.0, resources=Resources(memory_mib=900)),
}


@dataclass
class HostPod:
    order: actions.StartPod
    function_id: str = ""
    state: str = "starting"
    kv_bytes: int = 0
    tasks: dict[str, actions.SendTask] = field(default_factory=dict)


class SmallHost:
    """`steps` of chaos, and then `settle`: nothing fails any more and nobody asks, so that what waits has to be served
    by what was begun."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        ids = IdAllocator()
        self.names = self.random.sample(list(FUNCTIONS), self.random.choice([2, 3, 5, len(FUNCTIONS)]))
        self.names += sorted({tokenizer for name in self.names if (tokenizer := FUNCTIONS[name].tokenizer)})
        self.names = list(dict.fromkeys(self.names))
        """Where they are few, nothing else happens that would wake who is forgotten."""
        self.usable_mib = self.random.choice([900, 1000, 1470, 2070, 2150, 2600, 4000])
        self.manager = build_cluster_manager(ids, 3, {"python": self.random.choice([0, 1])}, usable_mib=self.usable_mib)
        self.driven = Driven(Cores(build_job_executor(ids, Random(seed)), self.manager))
        self.pods: dict[str, HostPod] = {}
        self.templates: dict[str, actions.StartTemplate] = {}
        self.loading: set[str] = set()
        self.cancelled: list[actions.SendCancel] = []
        self.requests: dict[str, str] = {}
        """The function of each."""
        self.finished: dict[str, actions.FinishRequest] = {}
        self.kept: set[str] = set()
        """Functions that are to have a pod always."""
        self.give(events.ControllerStarted())
        for function_id in self.names:
            self.define(function_id)

    # --- what the cores order ---------------------------------------------------------------------------

    def give(self, event: Event) -> None:
        self.carry_out(self.driven(event))

    def carry_out(self, ordered: list[Action]) -> None:
        for action in ordered:
            match action:
                case actions.StartPod():
                    self.pods[action.pod_id] = pod = HostPod(action, kv_bytes=action.kv_bytes)
                    if action.template_id:
                        assert action.template_id not in self.loading
                        pod.function_id = self.templates[action.template_id].function_id
                        self.check_kv(pod)
                case actions.BindPod():
                    pod = self.pods[action.pod_id]
                    pod.state, pod.function_id, pod.kv_bytes = "binding", action.function_id, action.kv_bytes
                case actions.StartTemplate():
                    self.templates[action.template_id] = action
                    self.loading.add(action.template_id)
                case actions.StopTemplate():
                    assert not [pod for pod in self.pods.values() if pod.order.template_id == action.template_id]
                    del self.templates[action.template_id]
                    self.loading.discard(action.template_id)
                case actions.SendTask():
                    pod = self.pods[action.pod_id]
                    assert pod.state == "bound" and pod.function_id == action.function_id
                    pod.tasks[action.task_id] = action
                case actions.SendCancel():
                    self.cancelled.append(action)
                case actions.SleepPod():
                    assert self.pods[action.pod_id].state == "bound"
                case actions.StopPod() | actions.KillPod():
                    self.pods[action.pod_id].state = "ending"
                case actions.FinishRequest():
                    assert action.request_id not in self.finished
                    self.finished[action.request_id] = action

    def check_kv(self, pod: HostPod) -> None:
        size = SIZES.get(pod.function_id)
        if size is not None and not FUNCTIONS[pod.function_id].resources.memory_mib:
            assert size.least_kv * MIB <= pod.kv_bytes <= size.kv * MIB, f"{pod.function_id} gets {pod.kv_bytes} of KV"

    # --- what may happen ----------------------------------------------------------------------------------

    def step(self) -> None:
        deeds = [
            (15, self.request),
            (25, self.pod_comes_up),
            (20, self.task_ends),
            (15, self.template_comes_up),
            (3, self.cancel),
            (3, self.lose_pod),
            (2, self.lose_template),
            (1, self.remove_and_define),
            (1, self.change_scaling),
            (10, self.pass_time),
        ]
        [deed] = self.random.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])
        deed()

    def request(self) -> None:
        function_id = self.random.choice(self.names)
        request_id = f"rq-{len(self.requests) + 1}"
        self.requests[request_id] = function_id
        self.give(events.RequestArrived(request_id, "link", function_id, "call"))

    def pod_comes_up(self, only_well: bool = False) -> None:
        waiting = [pod_id for pod_id, pod in self.pods.items() if pod.state in ("starting", "binding", "ending")]
        if not waiting:
            return
        pod_id = self.random.choice(waiting)
        pod, luck = self.pods[pod_id], 1.0 if only_well else self.random.random()
        if pod.state == "ending" or luck < 0.05:
            self.lose(pod_id)
        elif pod.state == "starting" and luck < 0.1:
            del self.pods[pod_id]
            self.give(events.PodStartFailed(pod_id, "fork failed"))
        elif pod.state == "starting":
            pod.state = "binding" if pod.order.template_id else "warm"
            self.give(events.PodConnected(pod_id, 1))
        elif luck < 0.12:
            self.give(events.ExecutorFailed(pod_id, pod.function_id, "ImportError"))
        else:
            self.bind(pod_id, pod)

    def bind(self, pod_id: str, pod: HostPod) -> None:
        pod.state, size, memory = "bound", SIZES.get(pod.function_id), PodMemory()
        slots, weights = max(1, FUNCTIONS[pod.function_id].scaling.max_inputs), Weights()
        if size is not None and not size.embeds:
            kv_bytes = min(pod.kv_bytes or size.kv * MIB, size.kv * MIB)
            weights, memory = Weights(size.weights * MIB), PodMemory(kv_bytes, size.least_kv * MIB)
        self.give(events.ExecutorReady(pod_id, pod.function_id, slots, weights=weights, memory=memory))

    def task_ends(self) -> None:
        running = [(pod, task) for pod in self.pods.values() for task in pod.tasks.values() if pod.state == "bound"]
        if running:
            pod, task = self.random.choice(running)
            del pod.tasks[task.task_id]
            self.give(events.TaskFinished(task.task_id, task.attempt, OK, 0.1))

    def template_comes_up(self, only_well: bool = False) -> None:
        if not self.loading:
            return
        template_id = self.random.choice(sorted(self.loading))
        order, luck = self.templates[template_id], 1.0 if only_well else self.random.random()
        self.loading.discard(template_id)
        size = SIZES.get(order.function_id)
        if size is not None and size.embeds:
            del self.templates[template_id]
            return self.give(events.TemplateRefused(template_id, "it embeds", size.memory))
        if luck >= 0.2:
            told = {"weights": Weights(size.weights * MIB), "memory": size.memory} if size else {}
            return self.give(events.TemplateReady(template_id, 1, 100.0, **told))
        del self.templates[template_id]
        if luck < 0.1:
            self.give(events.TemplateFailed(template_id, "ImportError"))
        else:
            self.give(events.TemplateLost(template_id, "killed by SIGKILL"))

    def cancel(self) -> None:
        if self.requests:
            self.give(events.RequestCancelled(self.random.choice(list(self.requests))))

    def lose_pod(self) -> None:
        if self.pods:
            self.lose(self.random.choice(list(self.pods)))

    def lose(self, pod_id: str) -> None:
        del self.pods[pod_id]
        self.give(events.PodLost(pod_id, "", 1))

    def lose_template(self) -> None:
        if self.templates:
            template_id = self.random.choice(list(self.templates))
            del self.templates[template_id]
            self.loading.discard(template_id)
            self.give(events.TemplateLost(template_id, "killed by SIGKILL"))
            for pod_id in [pod_id for pod_id, pod in self.pods.items() if pod.order.template_id == template_id]:
                self.lose(pod_id)

    def remove_and_define(self) -> None:
        function_id = self.random.choice(self.names)
        self.give(events.FunctionRemoved(function_id))
        self.define(function_id)

    def define(self, function_id: str) -> None:
        size = SIZES.get(function_id)
        self.give(events.FunctionDefined(function_id, FUNCTIONS[function_id], size.checkpoint * MIB if size else 0))

    def change_scaling(self) -> None:
        function_id = self.random.choice(self.names)
        min_pods = self.random.choice([0, 0, 1])
        self.kept = (self.kept | {function_id}) if min_pods else self.kept - {function_id}
        self.give(events.ScalingChanged(function_id, min_pods, self.random.choice([1, 3])))

    def obey_cancel(self) -> None:
        while self.cancelled:
            order = self.cancelled.pop()
            pod = self.pods.get(order.pod_id)
            if pod is not None and (task := pod.tasks.pop(order.task_id, None)) is not None:
                self.give(events.TaskFinished(task.task_id, task.attempt, OK, 0.1))

    def pass_time(self) -> None:
        self.carry_out(self.driven.advance(self.random.choice([0.01, 0.1, 0.5, 2.0])))

    # --- the end ----------------------------------------------------------------------------------------

    def go_well(self, seconds: float) -> None:
        self.obey_cancel()
        self.pod_comes_up(only_well=True)
        self.template_comes_up(only_well=True)
        self.task_ends()
        self.carry_out(self.driven.advance(seconds))

    def settle(self) -> None:
        """Who keeps pods for ever keeps others from memory: that is the user's wish, which ends here."""
        for function_id in sorted(self.kept):
            self.give(events.ScalingChanged(function_id, 0, 3))
        for _ in range(6000):
            self.go_well(0.02)
            if len(self.finished) == len(self.requests):
                break
        waiting = {name: self.requests[name] for name in self.requests.keys() - self.finished.keys()}
        views = {name: self.manager.function_view(name) for name in set(waiting.values())}
        assert not waiting, f"never finished: {waiting}, {views}, {self.manager.pods_view()}"
        for _ in range(3000):
            self.go_well(0.1)
            if not self.templates and all(pod.state == "warm" for pod in self.pods.values()):
                break
        claimed_mib, _ = self.manager.memory_view()
        assert claimed_mib == 16 * len(self.pods), f"{claimed_mib} MiB stay claimed by {self.manager.pods_view()}"
