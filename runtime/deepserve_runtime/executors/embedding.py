"""Texts to vectors: executors of embedding models, and what generating models use for the same."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deepserve.protocol.messages import Weights
from deepserve.protocol.model_io import Embedded, EmbedInput
from deepserve.protocol.openai_io import EMBEDDING_METHOD, METHODS, OpenAIRequest, OpenAIUsage
from deepserve.protocol.scaling_steps import LOAD
from deepserve.protocol.specs import FunctionSpec, ModelSpec
from deepserve_runtime import sdk
from deepserve_runtime.executors import openai_prompts
from deepserve_runtime.executors.accelerators import device_of
from deepserve_runtime.executors.flowserve_parts import (
    ApiError,
    EmbeddingAnswer,
    EmbeddingRequest,
    FlowServeError,
    PromptTooLongError,
    RequestFields,
    decode_body,
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


class _Asked(NamedTuple):
    """One task's texts as tokens; `answer` is how a request of the OpenAI API gets their vectors."""

    task: Task
    prompts: list[list[int]]
    answer: EmbeddingAnswer | None = None


class Embedder:
    """Answers `embed` tasks; what waits together is computed together."""

    def __init__(self, model: ModelSpec, folder: Path, load: Callable[[], EmbeddingModel]) -> None:
        self._name = model.name
        self._folder = folder
        self._make = load
        self._loaded: EmbeddingModel | None = None

    def answer(self, tasks: list[Task]) -> None:
        """On the main thread. One bad text fails its own task only."""
        read: list[_Asked] = []
        for task in tasks:
            try:
                read.append(self._read(task))
            except Exception as error:
                self._fail(task, error)
        try:
            vectors = self.load().embed_tokens([one for asked in read for one in asked.prompts]) if read else []
        except Exception as error:
            for asked in read:
                self._fail(asked.task, error)
            return
        for asked in read:
            own, vectors = vectors[: len(asked.prompts)], vectors[len(asked.prompts) :]
            num_tokens = sum(map(len, asked.prompts))
            if asked.answer is None:
                asked.task.finish(*encode(Embedded(own, num_tokens)))
            else:
                openai_prompts.finish_whole(asked.task, asked.answer.body(own, num_tokens), OpenAIUsage(num_tokens))

    def release(self) -> None:
        """Let go of the model; the next task loads it again."""
        self._loaded = None

    def load(self) -> EmbeddingModel:
        """The model; it is made where it is not there. Raises flowserve's errors."""
        if self._loaded is None:
            self._loaded = self._make()
        return self._loaded

    def _read(self, task: Task) -> _Asked:
        """Raises ApiError and FlowServe's errors."""
        model, method = self.load(), task.assignment.method
        if method == "embed":
            given = convert(task.start(), EmbedInput)
            return _Asked(task, model.tokenize(given.texts, truncate=given.truncate))
        text = f"{self._name} is an embedding model: it generates no text"
        if method != EMBEDDING_METHOD:
            raise (
                ApiError(404, text, code="model_has_no_such_task") if method in METHODS else sdk.errors.ModelError(text)
            )
        asked = decode_body(convert(task.start(), OpenAIRequest).body, EmbeddingRequest)
        answer = EmbeddingAnswer(asked, (self._name,), self._folder, model.dimension)
        return _Asked(task, model.tokenize(answer.inputs, truncate=answer.truncate), answer)

    def _fail(self, task: Task, error: Exception) -> None:
        if task.assignment.method in METHODS:
            openai_prompts.fail(task, error, RequestFields("input"))
        else:
            task.fail(self._as_model_error(error))

    def _as_model_error(self, error: Exception) -> Exception:
        if isinstance(error, PromptTooLongError):
            return sdk.errors.PromptTooLongError(f"{self._name}: {error}")
        return sdk.errors.ModelError(f"{self._name}: {error}") if isinstance(error, FlowServeError) else error


class EmbeddingExecutor:
    """Hosts a model that embeds and does nothing else; on the pod's main thread, as much at once as has arrived."""

    source = "file"
    source_reason = ""
    is_template_stale = False
    weights = Weights()

    def __init__(self, spec: FunctionSpec, threads: TaskThreads) -> None:
        assert spec.model is not None
        self.slots = spec.scaling.max_inputs
        self._spec = spec
        self._model = spec.model
        self._main = threads.main
        self._arrived: queue.SimpleQueue[Task] = queue.SimpleQueue()

    def load(self) -> dict[str, float]:
        steps = StepClock()
        with loading(self._model):
            folder = resolve_model(self._model.source)
            self._embedder = Embedder(
                self._model, folder, lambda: embedding_model(folder, self._spec, self._model.max_model_len)
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
    return embedding_model_from_folder(
        folder,
        dtype=model.dtype,
        quantization=model.quantization,
        max_length=max_length,
        device=device_of(spec.resources.accelerators),
    )
