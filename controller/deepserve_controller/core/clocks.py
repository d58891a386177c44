"""Clocks: what is done when one of a task's alarms goes off."""

from __future__ import annotations

from deepserve_controller.core.chunk import Chunk
from deepserve_controller.core.chunks import Chunks
from deepserve_controller.core.dispatcher import Dispatcher
from deepserve_controller.core.endings import timeout_outcome
from deepserve_controller.core.stopping import Stopping
from deepserve_controller.core.task import Task


class Clocks:
    """A task has one alarm at a time: it waits for a pod (queue), runs (limit), makes no item (idle), stops (grace) or
    waits for its next attempt (retry). The caller's own deadline is the job's."""

    def __init__(self, stopping: Stopping, dispatcher: Dispatcher, chunks: Chunks) -> None:
        self._stopping = stopping
        self._dispatcher = dispatcher
        self._chunks = chunks

    def ran_out(self, kind: str, task: Task, now_s: float) -> None:
        spec = task.function.spec
        if kind == "limit":
            self._stopping.ask(task, timeout_outcome(task.limit_s, "its time limit", "run"), now_s)
        elif kind == "queue":
            outcome = timeout_outcome(spec.queue_timeout_s, "its time to wait for a pod", "queue")
            self._stopping.ask(task, outcome, now_s)
        elif kind == "idle":
            if self._dispatcher.flow.is_idle(task, now_s):
                outcome = timeout_outcome(spec.idle_timeout_s, "its time without an item", "idle")
                self._stopping.ask(task, outcome, now_s)
        elif kind == "grace":
            self._stopping.grace_is_over(task, now_s)
        elif isinstance(task, Chunk):
            self._chunks.on_alarm(kind, task, now_s)
        else:
            task.move("queued")
            self._dispatcher.enqueue(task, now_s)
