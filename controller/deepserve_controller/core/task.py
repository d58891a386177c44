"""Task: the unit placed on one task executor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from deepserve.protocol.messages import Outcome, RequestKind

from deepserve_controller.core.alarms import Alarm
from deepserve_controller.core.events import Payload

if TYPE_CHECKING:
    from deepserve_controller.core.function_queue import ExecutorRecord, FunctionQueue
    from deepserve_controller.core.job import Job

TaskState = Literal["queued", "running", "stopping", "waiting", "finished"]

TRANSITIONS: dict[TaskState, tuple[TaskState, ...]] = {
    "queued": ("running", "finished"),
    "running": ("stopping", "waiting", "queued", "finished"),  # queued: its pod was killed for another task
    "stopping": ("finished",),
    "waiting": ("queued", "finished"),  # for the delay before a retry
    "finished": (),
}


@dataclass(slots=True, eq=False)
class Task:
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
    assigned_s: float = 0.0
    reason: str = ""
    """Why it runs where it runs."""
    is_blocked: bool = False
    has_delivered: bool = False
    user_retries: int = 0
    system_retries: int = 0
    alarm: Alarm | None = None
    """The limit while running, the grace while stopping, the delay while waiting."""
    stop_outcome: Outcome | None = None
    """What it will end with, once it was told to stop."""
    children: dict[str, Job] = field(default_factory=dict)
    """Unfinished requests made inside the current attempt, by request id."""

    @property
    def is_on_pod(self) -> bool:
        return self.state == "running" or self.state == "stopping"

    @property
    def pod_id(self) -> str:
        return self.executor.pod_id if self.executor else ""

    def move(self, state: TaskState) -> None:
        assert state in TRANSITIONS[self.state], f"{self.task_id}: {self.state} -> {state} is no transition"
        self.state = state
