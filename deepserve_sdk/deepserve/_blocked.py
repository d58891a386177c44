"""Tells the controller that a task waits for a call it made: the pod's slot is free meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from deepserve.errors import ControllerLost
from deepserve.protocol.messages import Message, TaskBlocked, TaskResumed


class BlockedTasks:
    """Coroutines and threads of one task may wait side by side: only the first and the last one speak."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._waiting: dict[str, int] = {}

    def enter(self, task_id: str) -> None:
        with self._lock:
            waiting = self._waiting[task_id] = self._waiting.get(task_id, 0) + 1
            if waiting == 1:
                self._send(TaskBlocked(task_id))

    def leave(self, task_id: str) -> None:
        with self._lock:
            waiting = self._waiting.pop(task_id) - 1
            if waiting:
                self._waiting[task_id] = waiting
                return
            try:
                self._send(TaskResumed(task_id))
            except ControllerLost:  # nobody is left to be told
                pass
