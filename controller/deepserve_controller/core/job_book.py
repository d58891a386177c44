"""JobBook: the unfinished jobs and tasks, and where they are found."""

from __future__ import annotations

from collections.abc import Iterator

from deepserve.protocol.messages import Outcome
from deepserve_controller.core.events import NO_PAYLOAD
from deepserve_controller.core.function_queue import FunctionQueue
from deepserve_controller.core.job import Job
from deepserve_controller.core.task import Task


class JobBook:
    """Jobs by request and by link, tasks by id. A job is written off once, when it has its outcome."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, Task] = {}
        self._of_link: dict[str, dict[str, Job]] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def add(self, job: Job) -> None:
        self._jobs[job.request_id] = job
        self._of_link.setdefault(job.link_id, {})[job.request_id] = job
        if job.parent is not None:
            job.parent.children[job.request_id] = job

    def ids(self) -> Iterator[str]:
        """Of the unfinished requests."""
        return iter(self._jobs)

    def get(self, request_id: str) -> Job | None:
        return self._jobs.get(request_id)

    def of_link(self, link_id: str) -> list[Job]:
        return list(self._of_link.get(link_id, {}).values())

    def add_task(self, task: Task) -> None:
        task.job.tasks[task.task_id] = task
        self._tasks[task.task_id] = task

    def task(self, task_id: str) -> Task | None:
        return self._tasks.get(task_id)

    def tasks(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def not_started(self, function: FunctionQueue) -> list[Task]:
        """Tasks that wait for a pod of `function`, now, after a delay, or once they have token ids."""
        delayed = [task for task in self._tasks.values() if task.function is function and task.state == "waiting"]
        return [*function.waiting.values(), *function.expected.values(), *delayed]

    def replace(self, task: Task, other: Task) -> None:
        """`other` is `task` from now on, under the same id."""
        self._tasks[task.task_id] = task.job.tasks[task.task_id] = other

    def remove_task(self, task: Task) -> None:
        task.job.note_latest(task)
        task.job.user_retries += task.user_retries
        task.job.pod_losses += task.pod_losses
        task.payload = NO_PAYLOAD
        del self._tasks[task.task_id]
        del task.job.tasks[task.task_id]

    def write_off(self, job: Job, outcome: Outcome) -> None:
        assert job.outcome is None and not job.tasks, f"{job.request_id} has ended before, or not yet"
        job.outcome = outcome
        del self._jobs[job.request_id]
        of_link = self._of_link[job.link_id]
        del of_link[job.request_id]
        if not of_link:
            del self._of_link[job.link_id]
        if job.parent is not None:
            del job.parent.children[job.request_id]
        job.inputs = None  # which refer to it

    def check_invariants(self) -> None:
        for request_id, job in self._jobs.items():
            assert job.outcome is None, f"{request_id} has an outcome but is not finished"
            assert job.tasks or job.kind == "map", f"{request_id} has no task and is not finished"
            assert job.tasks or job.ending is None, f"{request_id} has stopped but is not finished"
            assert self._of_link[job.link_id].get(request_id) is job, f"{request_id} is not found by its link"
            if job.parent is not None:
                assert job.parent.state != "finished" or job.ending, f"{request_id} outlives its caller and runs on"
            for task_id, task in job.tasks.items():
                assert self._tasks.get(task_id) is task, f"{task_id} of {request_id} is not known"
        for task_id, task in self._tasks.items():
            assert task.job.tasks.get(task_id) is task, f"{task_id} belongs to no unfinished job"
            assert task.is_on_pod == (task.executor is not None), f"{task_id} is {task.state} on '{task.pod_id}'"
            if task.state == "queued":
                assert task_id in task.function.waiting, f"{task_id} is queued in no queue"
            if task.state in ("waiting", "stopping"):
                has_alarm = task.alarm is not None and task.alarm.kind
                assert has_alarm or task.waits_for, f"{task_id} is {task.state} without an alarm"
        num_by_link = sum(len(jobs) for jobs in self._of_link.values())
        assert num_by_link == len(self._jobs), f"{num_by_link} requests by link, {len(self._jobs)} by id"
