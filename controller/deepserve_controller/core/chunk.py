"""Chunk: a run of a map's inputs that one pod has as one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepserve_controller.core.actions import SendChunk
from deepserve_controller.core.events import NO_PAYLOAD
from deepserve_controller.core.map_inputs import Run
from deepserve_controller.core.task import Task

if TYPE_CHECKING:
    from deepserve_controller.core.function_queue import FunctionQueue
    from deepserve_controller.core.job import Job

LEAST_PATIENCE_S = 0.01
"""More than a pod waits for a processor on a busy machine, and little beside what a long call takes."""
PATIENCE_FACTOR = 4.0

NO_RUN = Run(0, [], b"", "", 0.0)


class Chunk(Task, eq=False):
    """Has one attempt in its life, and two or more unfinished inputs: the last one goes on as LastInput.

    An input that is started again is a plain Task with an id of its own.
    """

    run: Run = NO_RUN
    position: int = 0
    """Of the first input whose end has not been heard of."""
    end: int = 0
    """Inputs from this position on were given back."""
    num_begun: int = 0
    """As far as is known: at least the one at `position`."""
    is_begun_known: bool = False
    """`num_begun` is exact: its pod is dead."""
    news_s: float = 0.0
    """When the pod was last heard of it."""
    expected_s: float = 0.0
    """What all of it takes, at the average."""
    is_recalled: bool = False

    @property
    def deadline_s(self) -> float:
        """For the calls made inside the input that runs now, which began when the last one's end was told."""
        if self.state != "running" or self.limit_s <= 0.0:
            return self.job.deadline_s
        return min(self.job.deadline_s, self.news_s + self.limit_s)

    @property
    def patience_s(self) -> float:
        """Without news for so long, it takes longer than it should."""
        return max(LEAST_PATIENCE_S, PATIENCE_FACTOR * self.expected_s)

    @property
    def num_left(self) -> int:
        return self.end - self.position

    @classmethod
    def of(cls, task_id: str, job: Job, function: FunctionQueue, run: Run) -> Chunk:
        expected_s = len(run) * function.run_times.mean_s(job.method)
        return cls(
            task_id, job, function, "map", job.method, run.first_index, NO_PAYLOAD, run.arrived_s,
            run=run, end=len(run), expected_s=expected_s,
        )  # fmt: skip

    def order(self, time_left_s: float) -> SendChunk:
        """For its pod. time_left_s: of all its inputs together, 0 without a limit."""
        job, run = self.job, self.run
        return SendChunk(
            self.pod_id, self.task_id, self.attempt, job.request_id, job.job_id, self.function.function_id,
            self.method, run.first_index, run.sizes, run.python, max(0.0, self.limit_s), time_left_s, run.data,
        )  # fmt: skip

    def task_for(self, task_id: str, position: int) -> Task:
        """One of its inputs as a task of its own, on its first attempt still."""
        return Task(
            task_id, self.job, self.function, "map", self.method, self.index + position,
            self.run.payload(position), self.arrived_s, state="running", attempt=self.attempt,
            pod_id=self.pod_id, assigned_s=self.assigned_s, reason=self.reason,
        )  # fmt: skip


class LastInput(Task, eq=False):
    """The only unfinished input of a chunk, under the chunk's id. All that holds for a task holds for it; only its pod
    tells its end by another message."""

    run: Run = NO_RUN
    """Itself, as it would wait again where its pod gives it back."""
    position: int = 0
    has_begun: bool = True
    """False only where its pod is dead and its page says so."""

    @classmethod
    def of(cls, chunk: Chunk, position: int) -> LastInput:
        """Takes the chunk's place everywhere but in its job's books."""
        last = cls(
            chunk.task_id, chunk.job, chunk.function, "map", chunk.method, chunk.index + position,
            chunk.run.payload(position), chunk.arrived_s, None, chunk.state, chunk.attempt, chunk.executor,
            chunk.pod_id, chunk.assigned_s, chunk.reason, chunk.is_blocked, alarm=chunk.alarm,
            stop_outcome=chunk.stop_outcome, is_stop_received=chunk.is_stop_received, children=chunk.children,
            run=chunk.run.part(position, position + 1), position=position,
        )  # fmt: skip
        if last.alarm is not None:
            last.alarm.subject = last
        if last.executor is not None:
            last.executor.tasks[last.task_id] = last
        for child in last.children.values():
            child.parent = last
        chunk.alarm, chunk.executor = None, None
        return last
