"""Where the running code is: which task, of which request, in which pod."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from deepserve.protocol.specs import CodeRef


@dataclass(frozen=True)
class TaskContext:
    """attempt: counts from 1. code: the code that the pod is bound to, from which calls to other functions of the
    same bundle take theirs; None outside pods."""

    request_id: str = ""
    task_id: str = ""
    attempt: int = 1
    pod_id: str = ""
    job_id: str = ""
    code: CodeRef | None = None


current_task: ContextVar[TaskContext | None] = ContextVar("deepserve_current_task", default=None)
"""Set by the pod around each task, in the thread or coroutine that runs it."""

importing: str = ""
"""Name of the user's module while a pod imports it: remote calls are refused meanwhile."""

_outside = TaskContext()


def context() -> TaskContext:
    """The running task's ids and attempt.

    Outside pods the ids are empty and `attempt` is 1, so that the same code runs locally. (Modal:
    `current_function_call_id`, `current_input_id`.)
    """
    return current_task.get() or _outside


_bound_code: CodeRef | None = None


def bound_code() -> CodeRef | None:
    """The code that this pod is bound to, also in threads that user code started; None outside pods."""
    global _bound_code
    task = current_task.get()
    if task is not None and task.code is not None:
        _bound_code = task.code
    return _bound_code
