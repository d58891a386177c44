"""Embedder: texts to vectors on a pod's main thread, a batch at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deepserve.protocol.model_io import Embedded, EmbedInput
from deepserve.protocol.openai_io import EMBEDDING_METHOD, METHODS, OpenAIRequest, OpenAIUsage
from deepserve.protocol.specs import ModelSpec
from deepserve_runtime import sdk
from deepserve_runtime.core.lifecycle import TaskKey
from deepserve_runtime.executors import openai_prompts
from deepserve_runtime.executors.flowserve_parts import (
    ApiError,
    EmbeddingAnswer,
    EmbeddingRequest,
    EmbeddingTurns,
    FlowServeError,
    PromptTooLongError,
    RequestFields,
    decode_body,
)
from deepserve_runtime.executors.values import convert, encode
from deepserve_runtime.task import Task
from deepserve_runtime.task_threads import TaskThread, TaskThreads

if TYPE_CHECKING:
    from deepserve_runtime.executors.flowserve_parts import EmbeddingModel


MUCH_BYTES = 1 << 15
"""Of a task's texts; more takes tens of milliseconds to tokenize, and megabytes take seconds."""


@dataclass(slots=True)
class _Asked:
    """One task's texts as tokens; `answer` is how a request of the OpenAI API gets their vectors."""

    task: Task
    prompts: list[list[int]]
    answer: EmbeddingAnswer | None
    vectors: list[list[float]] = field(init=False)
    num_left: int = field(init=False)

    def __post_init__(self) -> None:
        self.vectors = [[] for _ in self.prompts]
        self.num_left = len(self.prompts)


class Embedder:
    """Answers `embed` tasks a batch at a time, so that other work of the pod's main thread goes on between them.

    What waits together is computed together, and no task waits for all of another. A bad text fails its own task only.
    """

    def __init__(
        self,
        model: ModelSpec,
        folder: Path,
        load: Callable[[], EmbeddingModel],
        threads: TaskThreads,
        wake: Callable[[], object],
    ) -> None:
        """wake: called from any thread when `turn` has something to do."""
        self._name = model.name
        self._folder = folder
        self._make = load
        self._threads = threads
        self._wake = wake
        self._loaded: EmbeddingModel | None = None
        self._turns: EmbeddingTurns[TaskKey] = EmbeddingTurns()
        self._asked: dict[TaskKey, _Asked] = {}
        self._reading: dict[TaskKey, Task] = {}
        """Those with much text, which is tokenized on a thread of its own."""
        self._was_read: queue.SimpleQueue[tuple[Task, _Asked | Exception]] = queue.SimpleQueue()
        self._beside: TaskThread | None = None

    # --- on the main thread ----------------------------------------------------------------------------

    @property
    def has_batch(self) -> bool:
        return not self._turns.is_empty

    @property
    def is_busy(self) -> bool:
        return bool(self._asked or self._reading)

    def add(self, task: Task) -> None:
        try:
            task.open_to_interrupts(self._wake)
            model = self.load()
            if task.assignment.value.size_bytes > MUCH_BYTES:
                self._reading[task.key] = task
                self._thread_beside().inbox.put(lambda: self._read_beside(task, model))
            else:
                self._begin(self._read(task, model))
        except sdk.errors.InputCancelled:
            task.finish_cancelled()
        except Exception as error:
            self._fail(task, error)

    def turn(self, others_wait: bool = False) -> None:
        """One batch at most; and what was cancelled ends.

        others_wait: for the thread; they have it between two batches for as long as the first has taken.
        """
        self._begin_read()
        for task in [*self._reading.values(), *(asked.task for asked in self._asked.values())]:
            if task.cancel_reason:
                self._forget(task.key)
                task.finish_cancelled()
        began_s = time.monotonic()
        if self.has_batch and not (others_wait and self._turns.rests(began_s)):
            self._compute(self._turns.take())
            self._turns.took(began_s, time.monotonic())

    def release(self) -> None:
        """Let go of the model; the next task loads it again."""
        self._loaded = None

    def load(self) -> EmbeddingModel:
        """The model; it is made where it is not there. Raises flowserve's errors."""
        if self._loaded is None:
            self._loaded = self._make()
            self._turns = EmbeddingTurns(self._loaded.turn_tokens)
        return self._loaded

    def _begin_read(self) -> None:
        while not self._was_read.empty():
            task, outcome = self._was_read.get()
            if self._reading.pop(task.key, None) is None:  # it was cancelled meanwhile
                continue
            if isinstance(outcome, Exception):
                self._fail(task, outcome)
            else:
                self._begin(outcome)

    def _begin(self, asked: _Asked) -> None:
        if not asked.prompts:
            return self._finish(asked)
        self._asked[asked.task.key] = asked
        self._turns.add(asked.task.key, [len(prompt) for prompt in asked.prompts])

    def _compute(self, batch: list[tuple[TaskKey, int]]) -> None:
        try:
            vectors = self.load().embed_tokens([self._asked[key].prompts[place] for key, place in batch])
        except Exception as error:
            for key in dict.fromkeys(key for key, _ in batch):
                task = self._asked[key].task
                self._forget(key)
                self._fail(task, error)
            return
        for (key, place), vector in zip(batch, vectors, strict=True):
            asked = self._asked[key]
            asked.vectors[place] = vector
            asked.num_left -= 1
            if not asked.num_left:
                self._forget(key)
                self._finish(asked)

    def _finish(self, asked: _Asked) -> None:
        num_tokens = sum(map(len, asked.prompts))
        if asked.answer is None:
            asked.task.finish(*encode(Embedded(asked.vectors, num_tokens)))
            return
        try:
            openai_prompts.finish_whole(
                asked.task, asked.answer.body(asked.vectors, num_tokens), OpenAIUsage(num_tokens)
            )
        except sdk.errors.ValueTooLarge as error:
            self._fail(asked.task, error)

    def _forget(self, key: TaskKey) -> None:
        self._asked.pop(key, None)
        self._reading.pop(key, None)
        self._turns.drop(key)

    # --- on the thread beside, or the main thread ------------------------------------------------------

    def _thread_beside(self) -> TaskThread:
        if self._beside is None:
            self._beside = TaskThread(self._threads)
            threading.Thread(target=self._beside.work, name="deepserve-long-texts", daemon=True).start()
        return self._beside

    def _read_beside(self, task: Task, model: EmbeddingModel) -> None:
        if task.cancel_reason:
            return
        try:
            outcome: _Asked | Exception = self._read(task, model)
        except Exception as error:
            outcome = error
        self._was_read.put((task, outcome))
        self._wake()

    def _read(self, task: Task, model: EmbeddingModel) -> _Asked:
        """Raises ApiError and FlowServe's errors."""
        method = task.assignment.method
        if method == "embed":
            given = convert(task.start(), EmbedInput)
            return _Asked(task, model.tokenize(given.texts, truncate=given.truncate), None)
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
