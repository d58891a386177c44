"""Hosts a model that embeds."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import TYPE_CHECKING

from deepserve.protocol.messages import PodMemory, Weights
from deepserve.protocol.scaling_steps import LOAD
from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime.executors.accelerators import device_of
from deepserve_runtime.executors.embedder import Embedder
from deepserve_runtime.executors.flowserve_parts import EmbeddingQueue, embedding_model_from_folder, resolve_model
from deepserve_runtime.executors.loaded_engine import loading
from deepserve_runtime.step_clock import StepClock
from deepserve_runtime.task import Task
from deepserve_runtime.task_threads import TaskThreads

if TYPE_CHECKING:
    from deepserve_runtime.executors.flowserve_parts import EmbeddingModel


class EmbeddingExecutor:
    """Hosts a model that embeds and does nothing else, on the pod's main thread."""

    source = "file"
    source_reason = ""
    is_template_stale = False
    weights = Weights()
    memory = PodMemory()

    def __init__(self, spec: FunctionSpec, threads: TaskThreads) -> None:
        assert spec.model is not None
        self.slots = spec.scaling.max_inputs
        self._spec = spec
        self._model = spec.model
        self._threads = threads
        self._arrived: queue.SimpleQueue[Task] = queue.SimpleQueue()

    def load(self) -> dict[str, float]:
        steps = StepClock()
        with loading(self._model):
            folder = resolve_model(self._model.source)
            self._embedder = Embedder(
                self._model,
                folder,
                lambda: EmbeddingQueue(_embedding_model(folder, self._spec)),
                self._threads,
                self._wake,
            )
            self._embedder.load()
        steps.mark(LOAD)
        return steps.steps_ms

    def sleep(self, level: int) -> None:
        """On the main thread, between tasks; the next one loads the model again."""
        if self._arrived.empty() and not self._embedder.is_busy:
            self._embedder.release()

    def unload(self) -> None:
        pass

    def assign(self, task: Task) -> None:
        self._arrived.put(task)
        self._wake()

    def _wake(self) -> None:
        self._threads.main.inbox.put(self._work)

    def _work(self) -> None:
        while True:
            while not self._arrived.empty():
                self._embedder.add(self._arrived.get())
            self._embedder.turn()
            if not self._embedder.has_piece and self._arrived.empty():
                return


def _embedding_model(folder: Path, spec: FunctionSpec) -> EmbeddingModel:
    """Raises flowserve's errors."""
    model = spec.model
    assert model is not None
    return embedding_model_from_folder(
        folder,
        dtype=model.dtype,
        quantization=model.quantization,
        max_length=model.max_model_len,
        device=device_of(spec.resources.accelerators),
    )
