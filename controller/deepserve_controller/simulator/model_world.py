"""ModelWorld: a world whose pods may also be tokenizers and FlowServe engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from deepserve.protocol.messages import Outcome
from deepserve.protocol.model_io import JOURNAL_TOKEN_BYTES
from deepserve_controller.core import actions, events
from deepserve_controller.core.actions import Action
from deepserve_controller.core.events import Event
from deepserve_controller.simulator.costs import ASSUMED
from deepserve_controller.simulator.engine import Occurrence
from deepserve_controller.simulator.model_engine import Done, Prompt, Sequence, SimulatedEngine, Stretch
from deepserve_controller.simulator.report import Record
from deepserve_controller.simulator.world import Faults, Range, SimulatedPod, SimulatedTemplate, Times, World
from flowserve.cost_model import CostModel

TOKENIZE_S_PER_TOKEN = 1e-6
CHECK_EVERY = 200
"""Of the invariants of engines and cores, which look at each block."""


@dataclass(frozen=True, slots=True)
class Engines:
    """What engines are: how fast, how large (KV blocks, sequences at once), and how long they take to load."""

    cost: CostModel = ASSUMED
    num_blocks: int = 2000
    num_seats: int = 32
    load_s: Range = (2.5, 3.5)
    """In a pod, or in the model's template."""
    fork_s: Range = (0.03, 0.05)
    """Of an executor from that template."""
    journal_steps: int = 0
    """Streams tell their tokens so often, so that they can go on elsewhere; 0: they do not."""


@dataclass(slots=True)
class ModelRecord:
    """What happened to the requests of models; simulated seconds, by request id where it says so."""

    first_token_s: dict[str, float] = field(default_factory=dict)
    """From the request's arrival."""
    finished_s: dict[str, float] = field(default_factory=dict)
    cold: set[str] = field(default_factory=set)
    """Requests that went to an engine which got ready after they had arrived."""
    engine_s: float = 0.0
    """Of all engines together, from the order to load the model to their end."""
    num_engines: int = 0
    prompt_tokens: int = 0
    hit_tokens: int = 0
    said: dict[str, list[int]] = field(default_factory=dict)
    """By request id: the tokens that its reader has, where streams are journaled."""
    said_s: dict[str, float] = field(default_factory=dict)
    """When the last of them came."""
    pauses_s: list[float] = field(default_factory=list)
    """Between the last token of one pod and the first of the next."""


class ModelWorld(World):
    """`prompts`: by request id. A request's tokenise task tells its blocks, its engine task ends with its tokens."""

    def __init__(
        self,
        random: Random,
        times: Times,
        faults: Faults,
        record: Record,
        engines: Engines,
        prompts: Mapping[str, Prompt],
    ) -> None:
        super().__init__(random, times, faults, record)
        self.models = ModelRecord()
        self._about = engines
        self._prompts = prompts
        self._engines: dict[str, SimulatedEngine] = {}
        self._bound_s: dict[str, float] = {}
        self._ready_s: dict[str, float] = {}
        self._request_of: dict[str, str] = {}
        self._turns: dict[str, int] = {}
        """Priorities in the engine, by request id; 0 where none is given."""
        self._num_stretches = 0
        self._latest: dict[str, actions.SendTask] = {}
        """Of each task the order of its latest attempt."""
        self._assigned_s: dict[str, float] = {}
        self._preparing: dict[str, actions.SendPrepare] = {}
        """By the name of a sequence that only fills a cache."""

    def before(self, event: Event, now_s: float) -> None:
        if isinstance(event, events.PodLost):
            self._close(event.pod_id, now_s)
        elif isinstance(event, events.ExecutorReady) and event.pod_id in self._engines:
            self._ready_s[event.pod_id] = now_s
        elif isinstance(event, events.TaskProduced):
            self._note_said(event, now_s)
        elif isinstance(event, events.TaskReleased):
            for pod in self._pods.values():
                task = pod.tasks.get(event.task_id)
                if task is not None and task.attempt == event.attempt:
                    del pod.tasks[event.task_id]
        elif isinstance(event, events.EngineReported):
            for task_id in event.report.began:
                if (request_id := self._request_of.get(task_id)) is None:
                    continue
                first_s = now_s - self._record.arrived_s[request_id]
                self.models.first_token_s.setdefault(request_id, first_s)
        super().before(event, now_s)

    def lose(self, share: float, now_s: float) -> Iterator[Occurrence]:
        """One of the engines that are there dies; which one, `share` of [0, 1) says."""
        if self._engines:
            pod_id = list(self._engines)[int(share * len(self._engines))]
            yield Occurrence(now_s, events.PodLost(pod_id, "", -9), pod_id)

    def close(self, now_s: float) -> None:
        """The run ends: engines that are left count up to now."""
        for pod_id in list(self._engines):
            self._close(pod_id, now_s)

    def consequences(self, action: Action, now_s: float) -> Iterator[Occurrence]:
        if isinstance(action, actions.FinishRequest):
            self.models.finished_s[action.request_id] = now_s
        elif isinstance(action, actions.SendCancel) and action.pod_id in self._engines:
            self._engines[action.pod_id].drop(action.task_id)
        elif isinstance(action, actions.SendPrepare) and action.pod_id in self._engines:
            yield from self._prepare(action, now_s)
        elif isinstance(action, actions.SendRelease) and action.pod_id in self._engines:
            engine = self._engines[action.pod_id]
            if engine.release(action.task_id, now_s):
                yield self._end_of_stretch(action.pod_id, engine)
        yield from super().consequences(action, now_s)

    def _note_said(self, event: events.TaskProduced, now_s: float) -> None:
        """Tokens of an attempt that is not the latest are nobody's."""
        latest = self._latest[event.task_id]
        if event.attempt != latest.attempt:
            return
        request_id = self._request_of[event.task_id]
        said = self.models.said.setdefault(request_id, [])
        if latest.attempt > 1 and event.offset == latest.resume_offset:
            self.models.pauses_s.append(now_s - self.models.said_s.get(request_id, now_s))
        prompt = self._prompts[request_id]
        start = prompt.num_tokens + event.offset
        said += prompt.token_ids[start : start + event.num_items]
        self.models.said_s[request_id] = now_s

    def _prepare(self, action: actions.SendPrepare, now_s: float) -> Iterator[Occurrence]:
        """What is journaled of the sequence is prefilled, as a sequence of one token."""
        prompt = self._prompts[action.request_id]
        known = prompt.num_tokens + len(self.models.said.get(action.request_id, ()))
        name, engine = f"{action.task_id} round {action.round}", self._engines[action.pod_id]
        self._preparing[name] = action
        if engine.add(Sequence(name, 0, Prompt(prompt.token_ids[: known + 1], 1)), now_s):
            yield self._end_of_stretch(action.pod_id, engine)

    def _close(self, pod_id: str, now_s: float) -> None:
        engine = self._engines.pop(pod_id, None)
        if engine is not None:
            self.models.engine_s += now_s - self._bound_s[pod_id]
            self.models.prompt_tokens += engine.prompt_tokens
            self.models.hit_tokens += engine.hit_tokens

    def _bind(self, action: actions.BindPod, now_s: float) -> Iterator[Occurrence]:
        if action.spec.kind != "model":
            yield from super()._bind(action, now_s)
            return
        pod_id = action.pod_id
        at_s = now_s + self._draw(self._about.load_s)
        self._pods[pod_id].function_id = action.function_id
        self._open(pod_id, now_s)
        slots, load_ms = action.spec.scaling.max_inputs, (at_s - now_s) * 1e3
        yield Occurrence(at_s, events.ExecutorReady(pod_id, action.function_id, slots, load_ms), pod_id)

    def _open(self, pod_id: str, now_s: float) -> None:
        about = self._about
        self._engines[pod_id] = SimulatedEngine(about.cost, about.num_blocks, about.num_seats, about.journal_steps)
        self._bound_s[pod_id] = now_s
        self.models.num_engines += 1

    def _start_template(self, action: actions.StartTemplate, now_s: float) -> Iterator[Occurrence]:
        """Its loading counts as an engine's time; then it computes nothing."""
        if action.spec.kind != "model":
            yield from super()._start_template(action, now_s)
            return
        template_id, load_s = action.template_id, self._draw(self._about.load_s)
        self._templates[template_id] = SimulatedTemplate(action.function_id, action.spec.scaling.max_inputs)
        self.models.engine_s += load_s
        yield Occurrence(now_s + load_s, events.TemplateReady(template_id, int(template_id.rpartition("-")[2])))

    def _fork_bound(self, action: actions.StartPod, now_s: float) -> Iterator[Occurrence]:
        template = self._templates[action.template_id]
        if self._specs[template.function_id].kind != "model":
            yield from super()._fork_bound(action, now_s)
            return
        pod_id, at_s = action.pod_id, now_s + self._draw(self._about.fork_s)
        self._pods[pod_id] = SimulatedPod(pod_id, action.environment, template.function_id)
        self._open(pod_id, now_s)
        yield Occurrence(at_s, events.PodConnected(pod_id, int(pod_id.rpartition("-")[2])), pod_id)
        yield Occurrence(at_s, events.ExecutorReady(pod_id, template.function_id, template.slots), pod_id)

    def _run(self, task: actions.SendTask, now_s: float) -> Iterator[Occurrence]:
        kind = self._specs[task.function_id].kind
        pod = self._pods.get(task.pod_id)
        if pod is None or kind not in ("model", "tokenizer"):
            yield from super()._run(task, now_s)
            return
        pod.tasks[task.task_id] = task
        prompt = self._prompts[task.request_id]
        if kind == "tokenizer":
            at_s = now_s + prompt.num_tokens * TOKENIZE_S_PER_TOKEN
            finished = events.TaskFinished(
                task.task_id, task.attempt, Outcome("ok"), (at_s - now_s) * 1e3, prompt=prompt.blocks
            )
            yield Occurrence(at_s, finished, task.pod_id)
            return
        self._request_of[task.task_id] = task.request_id
        if self._ready_s[task.pod_id] > self._record.arrived_s[task.request_id]:
            self.models.cold.add(task.request_id)
        engine, said = self._engines[task.pod_id], len(self.models.said.get(task.request_id, ()))
        self._latest[task.task_id] = task
        self._assigned_s[task.task_id] = now_s
        left = Prompt(prompt.token_ids, prompt.num_output - said)
        turn = self._turns.get(task.request_id, 0)
        if engine.add(Sequence(task.task_id, task.attempt, left, turn), now_s):
            yield self._end_of_stretch(task.pod_id, engine)

    def _end_of_stretch(self, pod_id: str, engine: SimulatedEngine) -> Occurrence:
        stretch = engine.stretch
        assert stretch is not None
        at_s = stretch.end_s
        return Occurrence(at_s, WORLD, pod_id, lambda now_s: self._end_stretch(pod_id, engine, stretch, at_s))

    def _end_stretch(self, pod_id: str, engine: SimulatedEngine, stretch: Stretch, at_s: float) -> Iterator[Occurrence]:
        if engine.stretch is not stretch or stretch.end_s != at_s:
            return  # it was cut short meanwhile
        done = engine.end_stretch()
        self._num_stretches += 1
        if self._num_stretches % CHECK_EVERY == 0:
            engine.check_invariants()
        report = done.report
        if report.began or done.over or report.on_device or report.gone:
            yield Occurrence(at_s, events.EngineReported(pod_id, report), pod_id)
        if self._about.journal_steps:
            yield from self._tell(pod_id, done, at_s)
        for sequence in done.over:
            if (order := self._preparing.pop(sequence.task_id, None)) is not None:
                yield Occurrence(at_s, events.TaskPrepared(pod_id, order.task_id, order.round), pod_id)
                continue
            run_ms = (at_s - self._assigned_s[sequence.task_id]) * 1e3
            finished = events.TaskFinished(sequence.task_id, sequence.attempt, Outcome("ok"), run_ms)
            yield Occurrence(at_s, finished, pod_id)
        for sequence in done.released:
            yield Occurrence(at_s, events.TaskReleased(sequence.task_id, sequence.attempt), pod_id)
        if engine.stretch is not None:
            yield self._end_of_stretch(pod_id, engine)

    def _tell(self, pod_id: str, done: Done, at_s: float) -> Iterator[Occurrence]:
        """Each token is an item. Their numbers go on from what the core has told the attempt."""
        for sequence, num_tokens in done.produced:
            if sequence.task_id not in self._preparing:
                offset = self._latest[sequence.task_id].resume_offset + sequence.num_produced - num_tokens
                size_bytes = num_tokens * JOURNAL_TOKEN_BYTES
                produced = events.TaskProduced(
                    sequence.task_id, sequence.attempt, offset, num_tokens, size_bytes, size_bytes
                )
                yield Occurrence(at_s, produced, pod_id)


WORLD = Event()
"""What occurs is the world's own."""
