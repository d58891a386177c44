"""Texts to vectors: executors of embedding models, and what generating models use for the same."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deepserve.protocol.model_io import Embedded, EmbedInput
from deepserve.protocol.scaling_steps import LOAD
from deepserve.protocol.specs import FunctionSpec, ModelSpec
from deepserve_runtime import sdk
from deepserve_runtime.executors.accelerators import device_of
from deepserve_runtime.executors.flowserve_parts import (
    FlowServeError,
    InvalidConfigError,
    PromptTooLongError,
    embedding_model_from_folder,
    resolve_model,
)
from deepserve_runtime.executors.loaded_engine import loading
from deepserve_runtime.executors.values import convert, encode
from deepserve_runtime.step_clock import StepClock
from deepserve_runtime.task import Task
from deepserve_runtime.task_threads import TaskThreads

if TYPE_CHECKING:
    from deepserve_runtime.executors.flowserve_parts import EmbeddingModel


class Embedder:
    """Answers `embed` tasks; what waits together is computed together."""

    def __init__(self, model: ModelSpec, load: Callable[[], EmbeddingModel]) -> None:
        self._name = model.name
        self._make = load
        self._loaded: EmbeddingModel | None = None

    def answer(self, tasks: list[Task]) -> None:
        """On the main thread. One bad text fails its own task only."""
        prompts: list[tuple[Task, list[list[int]]]] = []
        for task in tasks:
            try:
                prompts.append((task, self._tokenize(task)))
            except Exception as error:
                task.fail(self._as_model_error(error))
        try:
            vectors = self.load().embed_tokens([one for _, texts in prompts for one in texts]) if prompts else []
        except Exception as error:
            for task, _ in prompts:
                task.fail(self._as_model_error(error))
            return
        for task, texts in prompts:
            own, vectors = vectors[: len(texts)], vectors[len(texts) :]
            task.finish(*encode(Embedded(own, sum(map(len, texts)))))

    def release(self) -> None:
        """Let go of the model; the next task loads it again."""
        self._loaded = None

    def load(self) -> EmbeddingModel:
        """The model; it is made where it is not there. Raises flowserve's errors."""
        if self._loaded is None:
            self._loaded = self._make()
        return self._loaded

    def _tokenize(self, task: Task) -> list[list[int]]:
        if task.assignment.method != "embed":
            raise sdk.errors.ModelError(f"{self._name} is an embedding model: it generates no text")
        given = convert(task.start(), EmbedInput)
        return self.load().tokenize(given.texts, truncate=given.truncate)

    def _as_model_error(self, error: Exception) -> Exception:
        if isinstance(error, PromptTooLongError):
            return sdk.errors.PromptTooLongError(f"{self._name}: {error}")
        return sdk.errors.ModelError(f"{self._name}: {error}") if isinstance(error, FlowServeError) else error


class EmbeddingExecutor:
    """Hosts a model that embeds and does nothing else; on the pod's main thread, as much at once as has arrived."""

    slots = 32
    source = "file"

    def __init__(self, spec: FunctionSpec, threads: TaskThreads) -> None:
        assert spec.model is not None
        self._spec = spec
        self._model = spec.model
        self._main = threads.main
        self._arrived: queue.SimpleQueue[Task] = queue.SimpleQueue()

    def load(self) -> dict[str, float]:
        steps = StepClock()
        with loading(self._model):
            folder = resolve_model(self._model.source)
            self._embedder = Embedder(
                self._model, lambda: embedding_model(folder, self._spec, self._model.max_model_len)
            )
            self._embedder.load()
        steps.mark(LOAD)
        return steps.steps_ms

    def sleep(self, level: int) -> None:
        """On the main thread, between tasks; the next one loads the model again."""
        self._embedder.release()

    def unload(self) -> None:
        pass

    def assign(self, task: Task) -> None:
        self._arrived.put(task)
        self._main.inbox.put(self._answer)

    def _answer(self) -> None:
        tasks: list[Task] = []
        while not self._arrived.empty():
            task = self._arrived.get()
            if task.cancel_reason:
                task.finish_cancelled()
            else:
                tasks.append(task)
        if tasks:
            self._embedder.answer(tasks)


def embedding_model(folder: Path, spec: FunctionSpec, max_length: int | None) -> EmbeddingModel:
    """Raises flowserve's errors."""
    model = spec.model
    assert model is not None
    if model.quantization is not None:
        raise InvalidConfigError(
            f"embeddings are computed exactly: quantization {model.quantization!r} is not for them"
        )
    device = device_of(spec.resources.accelerators)
    return embedding_model_from_folder(folder, dtype=model.dtype, max_length=max_length, device=device)
