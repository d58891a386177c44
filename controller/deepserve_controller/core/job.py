"""Job: the controller's plan for one request (DeepServe 2.1)."""

from __future__ import annotations

import msgspec

from deepserve.protocol.credit import Credit
from deepserve.protocol.messages import Outcome, RequestKind, Stopped, Timings
from deepserve_controller.core.alarms import NEVER_S, Alarm
from deepserve_controller.core.events import NO_PAYLOAD, Payload
from deepserve_controller.core.map_inputs import MapInputs
from deepserve_controller.core.task import Task
from deepserve_controller.core.views import RequestView


class Job(msgspec.Struct, eq=False):
    """A request's tasks that are not finished, and what is known of those that are.

    A call or stream has one task at a time (a model's two run one after the other), a map many: for each input that a
    pod has, or for a run of them (`Chunk`).
    Holds no payload of its own, so that the ring of recent requests stays small.
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
    parent_request_id: str = ""
    depth: int = 1
    """How many calls deep it is nested, itself counted."""
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
    finished_s: float | None = None
    last_task_id: str = ""
    last_pod_id: str = ""
    last_assigned_s: float | None = None
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
        """Remember where `task` was, for status after it is gone."""
        self.last_task_id = task.task_id
        self.last_attempt = task.attempt
        if task.attempt:
            self.last_pod_id = task.pod_id
            self.last_assigned_s = task.assigned_s
            self.first_assigned_s = min(self.first_assigned_s, task.assigned_s)

    def timings(self, now_s: float) -> Timings:
        """Of the whole request: until its first task was assigned, in all pods together, from arrival to now."""
        assigned_s = min(now_s, self.first_assigned_s)
        return Timings(
            self.job_id, self.last_task_id, self.last_pod_id, self.last_attempt,
            (assigned_s - self.arrived_s) * 1e3, self.run_ms, (now_s - self.arrived_s) * 1e3,
            self.user_retries, self.pod_losses,
        )  # fmt: skip

    def shed(self) -> None:
        """Let go of what only an unfinished job needs: its caller, its payload."""
        self.parent = None
        self.ending_payload = NO_PAYLOAD
        self.inputs = None

    def view(self) -> RequestView:
        for task in self.tasks.values():
            self.note_latest(task)
            break
        return RequestView(
            request_id=self.request_id,
            job_id=self.job_id,
            task_id=self.last_task_id,
            pod_id=self.last_pod_id,
            function_id=self.function_id,
            label=self.label,
            kind=self.kind,
            state=self._state(),
            detail=self.outcome.detail if self.outcome else "",
            stopped=self.outcome.stopped if self.outcome else "",
            parent_request_id=self.parent_request_id,
            arrived_s=self.arrived_s,
            assigned_s=self.last_assigned_s,
            finished_s=self.finished_s,
            attempts=self.last_attempt,
            num_open=self._num_open(),
            num_done=self.num_done,
        )

    def _num_open(self) -> int:
        waiting = self.inputs.num_waiting if self.inputs is not None else 0
        return waiting + sum(task.num_left for task in self.tasks.values())

    def _state(self) -> str:
        if self.outcome is not None:
            return self.outcome.kind
        if self.ending is not None:
            return "stopping"
        states = {task.state for task in self.tasks.values()}
        for state in ("stopping", "running", "waiting"):
            if state in states:
                return state
        return "queued"
