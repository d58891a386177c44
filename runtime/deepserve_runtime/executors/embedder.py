"""Embedder: texts to vectors on a pod's main thread, a piece at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deepserve.protocol.model_io import Embedded, EmbedInput
from deepserve.protocol.openai_io import EMBEDDING_METHOD, METHODS, OpenAIRequest, OpenAIUsage
from deepserve.protocol.specs import ModelSpec
from deepserve_runtime import sdk
from deepserve_runtime.core.lifecycle import TaskKey
from deepserve_runtime.executors import openai_prompts
from deepserve_runtime.executors.flowserve_parts import (
    ApiError,
    EmbeddingAnswer,
    EmbeddingOutcome,
    EmbeddingQueue,
    EmbeddingRequest,
    FlowServeError,
    PromptTooLongError,
    RequestFields,
    decode_body,
)
from deepserve_runtime.executors.values import convert, encode
from deepserve_runtime.task import Task
from deepserve_runtime.task_threads import TaskThread, TaskThreads

if TYPE_CHECKING:
    from deepserve_runtime.executors.flowserve_parts import EngineTexts

    TextQueue = EmbeddingQueue[TaskKey] | EngineTexts[TaskKey]

T = TypeVar("T")

MUCH_BYTES = 1 << 15
"""Of a task's texts; more takes tens of milliseconds to tokenize, and megabytes take seconds."""

MANY_NUMBERS = 1 << 16
"""Of a task's vectors; more take tens of milliseconds to spell."""


@dataclass(slots=True)
class _Asked:
    """One task's texts as tokens; `answer` is how a request of the OpenAI API gets their vectors."""

    task: Task
    prompts: list[list[int]]
    answer: EmbeddingAnswer | None


class Embedder:
    """Answers `embed` tasks a piece at a time, so that other work of the pod's main thread goes on between them.

    What waits together is computed together, and no task waits for all of another. A bad text fails its own task only.
    """

    def __init__(
        self,
        model: ModelSpec,
        folder: Path,
        load: Callable[[], TextQueue],
        threads: TaskThreads,
        wake: Callable[[], object],
    ) -> None:
        """load: makes what computes the vectors.  wake: called from any thread when `turn` has something to do."""
        self._name = model.name
        self._folder = folder
        self._make = load
        self._threads = threads
        self._wake = wake
        self._queue: TextQueue | None = None
        self._asked: dict[TaskKey, _Asked] = {}
        self._away: dict[TaskKey, Task] = {}
        """Those with much text or many numbers, which are read or spelled on a thread of its own."""
        self._back: queue.SimpleQueue[tuple[TaskKey, Callable[[], None]]] = queue.SimpleQueue()
        self._beside: TaskThread | None = None

    # --- on the main thread ----------------------------------------------------------------------------

    @property
    def has_piece(self) -> bool:
        return self._queue is not None and not self._queue.is_empty

    @property
    def is_busy(self) -> bool:
        return bool(self._asked or self._away)

    def add(self, task: Task) -> None:
        try:
            task.open_to_interrupts(self._wake)
            texts = self.load()
            if task.assignment.value.size_bytes > MUCH_BYTES:
                self._do_beside(task, partial(self._read, task, texts), self._begin)
            else:
                self._begin(self._read(task, texts))
        except sdk.errors.InputCancelled:
            task.finish_cancelled()
        except Exception as error:
            self.fail(task, error)

    def fail(self, task: Task, error: Exception) -> None:
        """What its caller gets instead of vectors."""
        if task.assignment.method in METHODS:
            openai_prompts.fail(task, error, RequestFields("input"))
        else:
            task.fail(self._as_model_error(error))

    def turn(self) -> None:
        """One piece at most; and what was cancelled ends."""
        for task in [*self._away.values(), *(asked.task for asked in self._asked.values())]:
            if task.cancel_reason:
                self._forget(task.key)
                task.finish_cancelled()
        while not self._back.empty():
            key, go_on = self._back.get()
            if self._away.pop(key, None) is not None:  # it was not cancelled meanwhile
                go_on()
        if self._queue is not None:
            for outcome in self._queue.advance():
                self._end(outcome)

    def release(self) -> None:
        """Let go of the model; the next task loads it again."""
        self._queue = None

    def load(self) -> TextQueue:
        """What computes the vectors; it is made where it is not there. Raises flowserve's errors."""
        if self._queue is None:
            self._queue = self._make()
        return self._queue

    def _begin(self, asked: _Asked) -> None:
        if not asked.prompts:
            return self._finish(asked, [])
        self._asked[asked.task.key] = asked
        self.load().add(asked.task.key, asked.prompts)

    def _end(self, outcome: EmbeddingOutcome[TaskKey]) -> None:
        asked = self._asked.pop(outcome.key)
        if outcome.error is not None:
            self.fail(asked.task, outcome.error)
        else:
            self._finish(asked, outcome.vectors)

    def _finish(self, asked: _Asked, vectors: list[list[float]]) -> None:
        task, num_tokens = asked.task, sum(map(len, asked.prompts))
        spell: Callable[[], Any]
        tell: Callable[[Any], None]
        if asked.answer is None:
            spell, tell = partial(encode, Embedded(vectors, num_tokens)), lambda spelled: task.finish(*spelled)
        else:
            spell, tell = partial(asked.answer.body, vectors, num_tokens), partial(self._tell_body, task, num_tokens)
        if sum(map(len, vectors)) > MANY_NUMBERS:
            self._do_beside(task, spell, tell)
        else:
            tell(spell())

    def _tell_body(self, task: Task, num_tokens: int, body: bytes) -> None:
        try:
            openai_prompts.finish_whole(task, body, OpenAIUsage(num_tokens))
        except sdk.errors.ValueTooLarge as error:
            self.fail(task, error)

    def _forget(self, key: TaskKey) -> None:
        self._asked.pop(key, None)
        self._away.pop(key, None)
        if self._queue is not None:
            self._queue.drop(key)

    def _do_beside(self, task: Task, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Work that takes long, while others go on; `then` is called on this thread."""

        def do() -> None:
            if task.cancel_reason:
                return
            try:
                go_on = partial(then, work())
            except Exception as error:
                go_on = partial(self.fail, task, error)
            self._back.put((task.key, go_on))
            self._wake()

        self._away[task.key] = task
        self._thread_beside().inbox.put(do)

    def _thread_beside(self) -> TaskThread:
        if self._beside is None:
            self._beside = TaskThread(self._threads)
            threading.Thread(target=self._beside.work, name="deepserve-long-texts", daemon=True).start()
        return self._beside

    # --- on the thread beside, or the main thread ------------------------------------------------------

    def _read(self, task: Task, texts: TextQueue) -> _Asked:
        """Raises ApiError and FlowServe's errors."""
        method = task.assignment.method
        if method == "embed":
            given = convert(task.start(), EmbedInput)
            return _Asked(task, texts.tokenize(given.texts, truncate=given.truncate), None)
        text = f"{self._name} is an embedding model: it generates no text"
        if method != EMBEDDING_METHOD:
            raise (
                ApiError(404, text, code="model_has_no_such_task") if method in METHODS else sdk.errors.ModelError(text)
            )
        asked = decode_body(convert(task.start(), OpenAIRequest).body, EmbeddingRequest)
        answer = EmbeddingAnswer(asked, (self._name,), self._folder, texts.dimension)
        return _Asked(task, texts.tokenize(answer.inputs, truncate=answer.truncate), answer)

    def _as_model_error(self, error: Exception) -> Exception:
        if isinstance(error, PromptTooLongError):
            return sdk.errors.PromptTooLongError(f"{self._name}: {error}")
        return sdk.errors.ModelError(f"{self._name}: {error}") if isinstance(error, FlowServeError) else error
