"""Where the running code is: which task, of which request, in which pod."""

from __future__ import annotations

import time
from contextvars import ContextVar

import msgspec

from deepserve.protocol.specs import CodeRef


class TaskContext(msgspec.Struct, frozen=True):
    """attempt: counts from 1. index: of the input, in a map; else -1. ends_at_s: on `time.monotonic()`, when the
    controller will stop this attempt; 0 without a limit. code: the code that the pod is bound to, from which calls to
    other functions of the same bundle take theirs; None outside pods. resume_offset: see `deepserve.resume_offset`."""

    request_id: str = ""
    task_id: str = ""
    attempt: int = 1
    pod_id: str = ""
    job_id: str = ""
    code: CodeRef | None = None
    index: int = -1
    ends_at_s: float = 0.0
    resume_offset: int = 0

    @property
    def idempotency_key(self) -> str:
        """The same in every attempt of this input and in no other: for services that ignore what they did already."""
        return self.request_id if self.index < 0 else f"{self.request_id}/{self.index}"

    @property
    def time_left_s(self) -> float | None:
        """Seconds until this attempt is stopped, the caller's own deadline counted; None without a limit."""
        return max(0.0, self.ends_at_s - time.monotonic()) if self.ends_at_s else None


current_task: ContextVar[TaskContext | None] = ContextVar("deepserve_current_task", default=None)
"""Set by the pod around each task, in the thread or coroutine that runs it."""

importing: str = ""
"""Name of the user's module while a pod imports it: remote calls are refused meanwhile."""

stopping: set[tuple[str, int]] = set()
"""In a pod: the tasks, with their attempts, that were told to stop and have not ended."""

_outside = TaskContext()


def context() -> TaskContext:
    """The running task's ids and attempt.

    Outside pods the ids are empty and `attempt` is 1, so that the same code runs locally. (Modal:
    `current_function_call_id`, `current_input_id`.)
    """
    return current_task.get() or _outside


def resume_offset() -> int:
    """In a generator with `replay="resume"`: how many items of this stream earlier attempts have passed on.

    The first item that the running attempt yields has this number; 0 in a first attempt, and outside pods.
    """
    return context().resume_offset


def cancelled() -> bool:
    """Whether the running call was cancelled or has run out of time: for code that polls. False outside pods.

    Needed where InputCancelled does not reach: in threads of your own (start them with a copy of the context), in
    coroutines that shield, in code that caught it and is tidying up.
    """
    task = current_task.get()
    return task is not None and (task.task_id, task.attempt) in stopping


_bound_code: CodeRef | None = None


def bound_code() -> CodeRef | None:
    """The code that this pod is bound to, also in threads that user code started; None outside pods."""
    global _bound_code
    task = current_task.get()
    if task is not None and task.code is not None:
        _bound_code = task.code
    return _bound_code
