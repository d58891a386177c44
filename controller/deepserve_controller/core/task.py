"""Task: the unit placed on one task executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from deepserve.protocol.messages import Outcome, RequestKind, Timings
from deepserve.protocol.prompt_blocks import PromptBlocks
from deepserve_controller.core.alarms import NEVER_S, Alarm
from deepserve_controller.core.events import NO_PAYLOAD, Payload

if TYPE_CHECKING:
    from deepserve_controller.core.function_queue import ExecutorRecord, FunctionQueue
    from deepserve_controller.core.job import Job

TaskState = Literal["queued", "running", "stopping", "waiting", "finished"]

TRANSITIONS: dict[TaskState, tuple[TaskState, ...]] = {
    "queued": ("running", "finished"),
    "running": ("stopping", "waiting", "queued", "finished"),  # queued: its pod was killed for another task
    "stopping": ("finished",),
    "waiting": ("queued", "finished"),  # for the delay before a retry, or for the results of other calls
    "finished": (),
}


class Task(msgspec.Struct, eq=False):
    """One attempt after another of one piece of work; `attempt` 0 was never assigned."""

    task_id: str
    job: Job
    function: FunctionQueue
    kind: RequestKind
    method: str
    index: int
    payload: Payload
    arrived_s: float
    then: FunctionQueue | None = None
    """The function whose task takes this one's result (a model's tokenise task: the model)."""
    state: TaskState = "queued"
    attempt: int = 0
    executor: ExecutorRecord | None = None
    """Where it is now."""
    pod_id: str = ""
    """Where it is or was last."""
    assigned_s: float = 0.0
    reason: str = ""
    """Why it runs where it runs."""
    is_blocked: bool = False
    num_produced: int = 0
    """Stream items passed on, in all attempts together."""
    journal_bytes: int = 0
    """What its attempts have said in their journals, all together."""
    is_settled: bool = False
    """No other pod can take it while it runs."""
    idle_alarm: Alarm | None = None
    idle_since_s: float = NEVER_S
    """Of a stream with an idle timeout: its last item, while its reader has room for more."""
    user_retries: int = 0
    pod_losses: int = 0
    """Attempts that ended with their pod."""
    vain_losses: int = 0
    """Those since the last that had come further than the one before it."""
    progress_at_loss: int = 0
    num_reruns: int = 0
    """Runs beyond its attempts, inside pods: its batch was run again."""
    alarm: Alarm | None = None
    """The limit while running (of a chunk: when to look after it), the grace while stopping, the delay while waiting,
    the patience while queued."""
    prompt: PromptBlocks | None = None
    """Of a model's task, and of the tokenise task that gave it."""
    waits_for: set[str] = set()
    """Requests whose results it is given as arguments and that have not finished."""
    stop_outcome: Outcome | None = None
    """What it will end with, once it was told to stop."""
    is_stop_received: bool = False
    """Its pod has confirmed that it was told."""
    children: dict[str, Job] = {}
    """Unfinished requests made inside it, by request id."""

    @property
    def num_left(self) -> int:
        """Inputs of its job that it still has to end."""
        return 1

    @property
    def progress(self) -> int:
        """Grows with whatever a later attempt need not do again."""
        return self.num_produced + self.journal_bytes

    @property
    def num_prompt_tokens(self) -> int:
        return self.prompt.num_tokens if self.prompt is not None else 0

    @property
    def is_on_pod(self) -> bool:
        return self.state == "running" or self.state == "stopping"

    @property
    def deadline_s(self) -> float:
        """For the calls made inside it: what is left to the caller is all that its call gets."""
        if self.state != "running" or self.alarm is None:
            return self.job.deadline_s
        return min(self.job.deadline_s, self.alarm.at_s)

    @property
    def limit_s(self) -> float:
        """Of each attempt, from its assignment; not positive: none."""
        return self.job.timeout_s if self.job.timeout_s > 0.0 else self.function.spec.timeout_s

    def timings(self, run_ms: float, now_s: float) -> Timings:
        """A map's items count from their own arrival, everything else from the request's."""
        arrived_s = self.arrived_s if self.job.kind == "map" else self.job.arrived_s
        queued_ms = ((self.assigned_s if self.attempt else now_s) - arrived_s) * 1e3
        total_ms = (now_s - arrived_s) * 1e3
        attempts = self.attempt + self.num_reruns
        return Timings(
            self.job.job_id, self.task_id, self.pod_id, attempts, queued_ms, run_ms, total_ms,
            self.user_retries, self.pod_losses,
        )  # fmt: skip

    def next_task(self, task_id: str, function: FunctionQueue, payload: Payload, now_s: float) -> Task:
        """What takes this one's result."""
        task = Task(task_id, self.job, function, self.job.kind, self.method, self.index, payload, now_s)
        task.prompt = self.prompt
        return task

    def move(self, state: TaskState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.task_id}: {self.state} -> {state} is no transition"
        self.state = state


class EndTask(Protocol):
    """Takes a task out of everything and lets its job go on; the job executor's."""

    def __call__(
        self, task: Task, outcome: Outcome, now_s: float, run_ms: float = 0.0, payload: Payload = NO_PAYLOAD
    ) -> None: ...
