"""What a task executor must be able to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from deepserve.protocol.messages import PodMemory, PrepareTask, TaskPrepared, Weights
from deepserve_runtime.task import Task


class TaskExecutor(Protocol):
    slots: int
    """Tasks that it runs at the same time."""
    source: str
    """Where what it runs came from, known once it is loaded: "fork" of a template that has it, "file", ..."""
    source_reason: str
    """Why from there, in words; empty where there is nothing to say."""
    is_template_stale: bool
    """The template that the pod was forked from holds what is no more, and must fork no other."""
    weights: Weights
    """Of a model, known once it is loaded."""
    memory: PodMemory
    """The same."""

    def load(self) -> dict[str, float]:
        """Warm -> bound, on the pod's main thread: milliseconds by step. Raises what kept it from loading."""

    def assign(self, task: Task) -> None:
        """Starts the task. Called on the reader thread, so it only hands over."""

    def unload(self) -> None:
        """Runs the exit hooks, on the pod's main thread; no task is running."""


@runtime_checkable
class MovingExecutor(Protocol):
    """One whose tasks can go on in another pod."""

    def prepare(self, message: PrepareTask, payload: bytes, reply: Callable[[TaskPrepared], object]) -> None:
        """Makes ready for a task that runs elsewhere. Called on the reader thread, so it only hands over."""
