"""Job: the controller's plan for one request (DeepServe 2.1)."""

from __future__ import annotations

import msgspec

from deepserve.protocol.credit import Credit
from deepserve.protocol.messages import Outcome, RequestKind, Stopped, Timings
from deepserve_controller.core.alarms import NEVER_S, Alarm
from deepserve_controller.core.events import NO_PAYLOAD, Payload
from deepserve_controller.core.map_inputs import MapInputs
from deepserve_controller.core.task import Task


class Job(msgspec.Struct, eq=False):
    """A request's tasks that are not finished, and what is known of those that are.

    A call or stream has one task at a time (a model's two run one after the other), a map many: for each input that a
    pod has, or for a run of them (`Chunk`).
    """

    request_id: str
    job_id: str
    link_id: str
    function_id: str
    label: str
    kind: RequestKind
    method: str
    timeout_s: float
    keep: bool
    arrived_s: float
    deadline_s: float
    parent: Task | None = None
    depth: int = 1
    """How many calls deep it is nested, itself counted."""
    is_ahead: bool = False
    """It takes another one's seat in a model's engine: a pod need have no free slot for it."""
    tasks: dict[str, Task] = {}
    num_done: int = 0
    num_inputs: int | None = None
    """Inputs of a map once their end is known."""
    num_arrived: int = 0
    """Inputs of a map: they come in the order of their indices."""
    inputs: MapInputs | None = None
    """Those that wait; None before the first of them."""
    credit: Credit = msgspec.field(default_factory=Credit)
    """What the reader of a stream has room for beyond what has passed."""
    alarm: Alarm | None = None
    """The inherited deadline."""
    ending: Outcome | None = None
    """Set while the job's running tasks are being stopped; what it will end with."""
    ending_payload: Payload = NO_PAYLOAD
    stopped: Stopped = ""
    """How its tasks were stopped, the worst of them."""
    outcome: Outcome | None = None
    last_task_id: str = ""
    last_pod_id: str = ""
    last_attempt: int = 0
    first_assigned_s: float = NEVER_S
    user_retries: int = 0
    pod_losses: int = 0
    run_ms: float = 0.0
    """Of its tasks together, those in different pods too."""

    @property
    def is_map_complete(self) -> bool:
        return self.num_inputs is not None and self.num_done >= self.num_inputs

    def chain(self) -> list[str]:
        """The functions of its callers, the outermost first, down to its own."""
        labels, job = [self.label], self
        while job.parent is not None:
            job = job.parent.job
            labels.append(job.label)
        return labels[::-1]

    def note_latest(self, task: Task) -> None:
        """Remember where `task` was, for the timings of the whole request."""
        self.last_task_id = task.task_id
        self.last_attempt = task.attempt
        if task.attempt:
            self.last_pod_id = task.pod_id
            self.first_assigned_s = min(self.first_assigned_s, task.assigned_s)

    def timings(self, now_s: float) -> Timings:
        """Of the whole request: until its first task was assigned, in all pods together, from arrival to now."""
        assigned_s = min(now_s, self.first_assigned_s)
        return Timings(
            self.job_id, self.last_task_id, self.last_pod_id, self.last_attempt,
            (assigned_s - self.arrived_s) * 1e3, self.run_ms, (now_s - self.arrived_s) * 1e3,
            self.user_retries, self.pod_losses,
        )  # fmt: skip
