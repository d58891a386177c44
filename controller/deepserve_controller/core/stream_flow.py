"""StreamFlow: how far a stream has come, what its reader has room for, and how long it may be silent."""

from __future__ import annotations

from deepserve_controller.core.actions import Action, SendCredit
from deepserve_controller.core.alarms import NEVER_S, Alarms
from deepserve_controller.core.events import CreditGranted, TaskProduced
from deepserve_controller.core.job import Job
from deepserve_controller.core.task import Task


class StreamFlow:
    """The idle clock runs from the last item while the reader has credit, and stands still while it has none: a slow
    reader never ends a stream. It is looked at when its alarm goes off, not for each item: a stream that flows sets
    one alarm in each `idle_timeout`."""

    def __init__(self, alarms: Alarms, out: list[Action]) -> None:
        self._alarms = alarms
        self._out = out

    def assigned(self, task: Task, now_s: float) -> None:
        if task.kind == "stream":
            self._run_clock(task, now_s)

    def produced(self, task: Task, event: TaskProduced, now_s: float) -> None:
        """Items have passed; older news of them counts for nothing."""
        task.journal_bytes += event.journal_bytes
        end = event.offset + event.num_items
        if end > task.num_produced:
            task.job.credit.spend(end - task.num_produced, event.size_bytes)
            task.num_produced = end
            if task.function.engines is not None:
                task.function.engines.began(task.pod_id, task.task_id, now_s)
            if task.idle_alarm is not None:
                task.idle_since_s = now_s if task.job.credit.is_open else NEVER_S

    def granted(self, job: Job, event: CreditGranted, now_s: float) -> None:
        job.credit.grant(event.items, event.size_bytes)
        for task in job.tasks.values():
            if task.state == "running" and task.kind == "stream":
                self._out.append(SendCredit(task.pod_id, task.task_id, event.items, event.size_bytes))
                if task.idle_since_s == NEVER_S:
                    self._run_clock(task, now_s)

    def left_pod(self, task: Task) -> None:
        """The attempt is over."""
        if task.idle_alarm is not None:
            self._alarms.cancel(task.idle_alarm)
            task.idle_alarm = None
        task.idle_since_s = NEVER_S

    def is_idle(self, task: Task, now_s: float) -> bool:
        """Its idle alarm went off: has it been silent for too long? Otherwise the clock goes on."""
        task.idle_alarm = None
        if task.state != "running" or task.idle_since_s == NEVER_S:
            return False
        if task.idle_since_s + task.function.spec.idle_timeout_s <= now_s:
            return True
        self._set_alarm(task)
        return False

    def _run_clock(self, task: Task, now_s: float) -> None:
        if task.function.spec.idle_timeout_s > 0.0 and task.job.credit.is_open:
            task.idle_since_s = now_s
            if task.idle_alarm is None:
                self._set_alarm(task)

    def _set_alarm(self, task: Task) -> None:
        at_s = task.idle_since_s + task.function.spec.idle_timeout_s
        task.idle_alarm = self._alarms.set(at_s, "idle", task)
