"""Stopping: how what runs is ended: asked, given a grace, and then ended with its pod."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from deepserve.protocol.messages import Outcome, Stopped
from deepserve_controller.core.actions import Action, SendCancel
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.dispatcher import Dispatcher
from deepserve_controller.core.endings import pod_killed_outcome, stopped_outcome, worse
from deepserve_controller.core.job import Job
from deepserve_controller.core.replay import lost_outcome
from deepserve_controller.core.retrying import Retrying
from deepserve_controller.core.task import EndTask, Task


class Stopping:
    """A task that is to stop ends for its caller at the latest when its grace is over. What becomes of its pod then:

    - It runs nothing else, or did not even confirm that it was asked (stopped by a signal, its interpreter held by C
      code): it is killed at once. What else it ran could not go on, is not to blame, and is run again (see Retrying).
    - It runs other tasks: it takes no new ones, lets those finish, and is killed then. How long that takes is bounded
      by their time limits, each of which ends with the same grace. A code that stops after all, later, saves its pod
      from being killed: it is stopped with its exit hooks.
    - `force`: killed at once, without any grace.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        retrying: Retrying,
        alarms: Alarms,
        orphans: deque[Job],
        out: list[Action],
        grace_s: float,
        end_task: EndTask,
    ) -> None:
        self._dispatcher = dispatcher
        self._retrying = retrying
        self._alarms = alarms
        self._orphans = orphans
        self._out = out
        self._grace_s = grace_s
        self._end_task = end_task
        self.isolate: Callable[[Task, float], Task | None] = lambda task, now_s: task
        """Of a chunk, the input that ran, if one did (`Chunks`)."""

    def ask(self, task: Task, outcome: Outcome, now_s: float) -> None:
        """End a task that waits; ask the pod of one that runs, which has `grace_s` to obey."""
        if task.state == "stopping":
            return
        task.stop_outcome = outcome
        if task.state != "running":
            has_begun = task.attempt or task.job.num_done
            self.end(task, "while it waited" if has_begun else "before it began", now_s)
            return
        task.move("stopping")
        if task.then is not None:
            self._dispatcher.stop_expecting(task.then, task)
        if task.alarm is not None:
            self._alarms.cancel(task.alarm)
        task.alarm = self._alarms.set(now_s + self._grace_s, "grace", task)
        reason: Literal["timeout", "cancelled"] = "timeout" if outcome.kind == "timeout" else "cancelled"
        self._out.append(SendCancel(task.pod_id, task.task_id, task.attempt, reason))
        self._orphans.extend(task.children.values())

    def end(self, task: Task, stopped: Stopped, now_s: float, run_ms: float = 0.0) -> None:
        """`task` was told to stop and did: it ends as decided, whatever the pod answered."""
        assert task.stop_outcome is not None
        task.job.stopped = worse(task.job.stopped, stopped)
        self._end_task(task, stopped_outcome(task.stop_outcome, stopped), now_s, run_ms)

    def grace_is_over(self, task: Task, now_s: float) -> None:
        assert task.executor is not None
        reason = f"{task.task_id} did not stop within {self._grace_s:g} s"
        if task.is_stop_received and len(task.executor.tasks) > 1:
            self._dispatcher.executors.strand(task, reason)
            self.end(task, "pod draining", now_s)
        else:
            self.kill(task.pod_id, reason, now_s)

    def force(self, job: Job, now_s: float) -> None:
        for task in list(job.tasks.values()):
            if task.state == "stopping" and task.executor is not None:
                self.kill(task.pod_id, f"{task.task_id} had to be stopped", now_s)

    def kill(self, pod_id: str, reason: str, now_s: float) -> None:
        """Its tasks that were told to stop end; the others are not to blame."""
        for killed in reversed(self._dispatcher.executors.kill(pod_id, reason)):
            task = self.isolate(killed, now_s)
            if task is None:
                continue
            if task.state == "stopping":
                self.end(task, "pod killed", now_s)
            elif not self._retrying.after_loss(task, False, now_s):
                self._end_task(task, lost_outcome(task, pod_killed_outcome(pod_id, reason, task.pod_losses)), now_s)
