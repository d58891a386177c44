"""Retrying: whether a task is started again, and on whose account."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from deepserve.protocol.specs import RetrySpec
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.dispatcher import Dispatcher
from deepserve_controller.core.job import Job
from deepserve_controller.core.replay import may_start_again
from deepserve_controller.core.task import Task

RetryDelay = Callable[[RetrySpec, int, Random], float]
"""Seconds to wait before retry number n (1, 2, ...)."""

PURE_RETRIES = 2
"""Of a task that only computes. Its prompt may be what kills the engine, and loading a model again takes long; but a
pod may have been dead already when it was given the task, which says nothing of the task."""


class Retrying:
    """Two accounts, which never touch each other.

    - What the code raised, where the pod judged that `retries` cover it: `max_retries` of the function's.
    - The loss of the pod. The task may have begun and had its effects, and may be what killed the pod, so it is run
      again only where the user has said that it may be: `pod_losses` times with `retries`, not at all without. Exempt
      are those whose pod was killed for another task's sake, `system_retries` times whatever the user said, and tasks
      that only compute (models, tokenizers), twice. A task that kills pod after pod ends when its account is empty.
      For a model's a loss counts where its attempt came no further than those before it: another pod goes on behind
      the tokens that are journaled, and a prompt that kills its pod does so at the same place again.

    A stream that passed items on is started again only where its function knows how: see `replay`.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        alarms: Alarms,
        orphans: deque[Job],
        random: Random,
        delay: RetryDelay,
        system_retries: int,
    ) -> None:
        self._dispatcher = dispatcher
        self._alarms = alarms
        self._orphans = orphans
        self._random = random
        self._delay = delay
        self._system_retries = system_retries

    def after_error(self, task: Task, now_s: float) -> bool:
        """Start `task` again after a delay, on the user's account; False where that is used up."""
        spec = task.function.spec.retries
        if spec is None or task.user_retries >= spec.max_retries or not may_start_again(task):
            return False
        task.user_retries += 1
        self._wait(task, self._delay(spec, task.user_retries, self._random), now_s)
        return True

    def after_loss(self, task: Task, is_blamed: bool, now_s: float) -> bool:
        """`task`'s pod is gone, by its own death (`is_blamed`) or killed for another task: start it again?"""
        task.pod_losses += 1
        task.vain_losses = 0 if task.progress > task.progress_at_loss else task.vain_losses + 1
        task.progress_at_loss = task.progress
        losses = task.vain_losses if task.function.spec.kind == "model" else task.pod_losses
        if losses > self._budget(task, is_blamed) or not may_start_again(task):
            return False
        spec = task.function.spec.retries
        if is_blamed and spec is not None:
            self._wait(task, self._delay(spec, task.pod_losses, self._random), now_s)
        else:
            self.leave_pod(task, now_s)
            task.move("queued")
            self._dispatcher.enqueue(task, now_s, first=True)
        return True

    def leave_pod(self, task: Task, now_s: float) -> None:
        """End the attempt: no alarm, no slot, no children."""
        if task.alarm is not None:
            self._alarms.cancel(task.alarm)
            task.alarm = None
        if task.children:
            self._orphans.extend(task.children.values())
        self._dispatcher.release(task, now_s)

    def _budget(self, task: Task, is_blamed: bool) -> int:
        spec = task.function.spec
        paid = spec.retries.pod_losses if spec.retries is not None else 0
        if not is_blamed:
            return max(paid, self._system_retries)
        return max(paid, PURE_RETRIES) if spec.kind in ("model", "tokenizer") else paid

    def _wait(self, task: Task, delay_s: float, now_s: float) -> None:
        self.leave_pod(task, now_s)
        task.move("waiting")
        task.alarm = self._alarms.set(now_s + delay_s, "retry", task)
