"""Hosts a FlowServe engine: many tasks at once, each a sequence of the engine."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from deepserve.protocol.messages import PodEnding, PodMemory, PrepareTask, SetContextTtl, TaskPrepared, Weights
from deepserve.protocol.openai_io import EMBEDDING_METHOD, GENERATION_METHODS
from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime import sdk
from deepserve_runtime.error_outcome import describe
from deepserve_runtime.executors import openai_prompts
from deepserve_runtime.executors.embedder import Embedder
from deepserve_runtime.executors.engine_news import EngineNews
from deepserve_runtime.executors.flowserve_parts import (
    CheckpointChangedError,
    FlowServeError,
    InvalidGrammarError,
    PromptTooLongError,
    RequestFields,
    SequenceOutput,
    SequenceRequest,
    UnknownSequenceError,
    engine_texts,
)
from deepserve_runtime.executors.loaded_engine import LoadedEngine
from deepserve_runtime.executors.openai_generation import OpenAIGeneration
from deepserve_runtime.executors.prefills import Prefills
from deepserve_runtime.executors.started_engine import StartedEngine
from deepserve_runtime.executors.task_reader import AnyGeneration, TaskReader
from deepserve_runtime.link import LinkClosed
from deepserve_runtime.step_clock import StepClock
from deepserve_runtime.task import Task
from deepserve_runtime.task_threads import TaskThreads


@dataclass(frozen=True, slots=True)
class _Compiling:
    """A task that waits for grammars, or many bad words or stop strings: one or none for each of its sequences."""

    generation: AnyGeneration
    requests: Sequence[SequenceRequest]
    compiling: list[Future[Any] | None]

    @property
    def is_done(self) -> bool:
        return all(each is None or each.done() for each in self.compiling)


class EngineExecutor:
    """The engine belongs to the pod's main thread, which steps it while there is work and sleeps otherwise."""

    def __init__(
        self, spec: FunctionSpec, threads: TaskThreads, loaded: LoadedEngine | None = None, kv_bytes: int = 0
    ) -> None:
        """`loaded`: in the template that the pod was forked from. kv_bytes: see BindExecutor."""
        assert spec.model is not None
        self.slots = spec.scaling.max_inputs
        self._spec = spec
        self._model = spec.model
        self._loaded, self._kv_bytes = loaded, kv_bytes
        self.source, self.source_reason, self.is_template_stale = "", "", False
        self.weights, self.memory = Weights(), PodMemory()
        self._threads = threads
        self._main = threads.main
        self._arrived: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._context_ttls: queue.SimpleQueue[SetContextTtl] = queue.SimpleQueue()
        self._compiling: dict[str, _Compiling] = {}
        """By the id of their first sequence, until they are compiled: meanwhile the others go on."""
        self._generations: dict[str, AnyGeneration] = {}
        """By sequence id, until the outcome is sent: also those whose reader has no room for the last words."""
        self._prefills = Prefills()
        self._lock = threading.Lock()
        self._is_stepping = False
        self._has_news = False
        self._is_ending = False

    def load(self) -> dict[str, float]:
        steps = StepClock()
        started = StartedEngine(self._spec, self._loaded, steps, self._kv_bytes)
        self._engine, self._folder = started.engine, started.folder
        self._reader = TaskReader(self._model, started)
        self.source, self.source_reason = started.source, started.source_reason
        self.is_template_stale = started.is_template_stale
        self.weights, self.memory = started.weights, started.memory
        self._news = EngineNews(self._engine)
        self._texts = engine_texts(self._engine)
        self._embedder = Embedder(self._model, self._folder, lambda: self._texts, self._threads, self._wake)
        return steps.steps_ms

    def unload(self) -> None:
        pass

    def sleep(self, level: int) -> None:
        """On the main thread. Nothing happens while there is work; the next task wakes the engine."""
        has_work = self._compiling or self._generations or self._engine.has_work or self._embedder.is_busy
        if self._arrived.empty() and not has_work:
            self._engine.sleep(level)

    # --- from the reader thread ------------------------------------------------------------------------

    def assign(self, task: Task) -> None:
        self._arrived.put(task)
        self._wake()

    def prepare(self, message: PrepareTask, payload: bytes, reply: Callable[[TaskPrepared], object]) -> None:
        self._prefills.ask(message, payload, reply)
        self._wake()

    def set_context_ttl(self, message: SetContextTtl) -> None:
        self._context_ttls.put(message)
        self._wake()

    def _wake(self) -> None:
        """Something changed: a task, a cancel, credit."""
        with self._lock:
            self._has_news = True
            if self._is_stepping:
                return
            self._is_stepping = True
        self._main.inbox.put(self._step_while_busy)

    def _may_rest(self) -> bool:
        with self._lock:
            has_work = self._has_news or self._engine.has_work or self._embedder.has_piece
            if has_work and not self._is_ending:
                self._has_news = False
                return False
            self._is_stepping = False
            return True

    # --- on the main thread ----------------------------------------------------------------------------

    def _step_while_busy(self) -> None:
        while not self._may_rest():
            while not self._arrived.empty():
                self._add(self._arrived.get())
            self._start_compiled()
            self._prefills.start(self._engine)
            for generation in [each for each in self._generations.values() if each.task.cancel_reason]:
                self._leave_engine(generation)
                generation.task.finish_cancelled()
            for sequence_id in [i for i, generation in self._generations.items() if generation.task.is_leaving]:
                self._release(sequence_id)
            self._set_context_ttls()
            self._embedder.turn()
            outputs = self._step()
            # Before the ends of tasks, which settle what was expected.
            self._news.tell(outputs, self._generations, self._main.link)
            for output in outputs:
                self._receive(output)
            for sequence_id in list(self._generations):
                self._flush(sequence_id)
            if (error := self._engine.loading_error) is not None:
                self._lose_weights(error)

    def _set_context_ttls(self) -> None:
        """After the tasks that came before them have begun, or have been cancelled."""
        if self._context_ttls.empty():
            return
        while not self._context_ttls.empty():
            message = self._context_ttls.get()
            self._engine.set_context_ttl(message.context_id, message.ttl_s)
        self._news.send(self._main.link)

    def _lose_weights(self, error: Exception) -> None:
        """They did not come, so this engine will not compute: who asked is told, and another pod takes its place."""
        self._end_pod(f"{self._model.name}: {error}")
        lost = sdk.errors.ModelLoadError(f"{self._model.name}: its weights did not come: {error}")
        for generation in list(self._generations.values()):
            self._leave_engine(generation)
            self._fail_task(generation.task, lost, generation)
        self._texts.fail(lost)
        self._embedder.turn()

    def _end_pod(self, text: str) -> None:
        """Nothing more is sent to it. Tasks that it has and does not answer go on in another pod, as after any loss."""
        if not self._is_ending:
            self._is_ending = True
            self._main.link.send(PodEnding(text))
            self._main.inbox.put(None)

    def _add(self, task: Task) -> None:
        if task.assignment.method in ("embed", EMBEDDING_METHOD):
            return self._add_texts(task)
        first_id = f"{task.key[0]}/{task.key[1]}"
        with self._answering(task):
            generation, requests = self._reader.read(task)
            task.open_to_interrupts(self._wake)
            task.watch(self._wake)
            compiling = [self._engine.compiler.submit(request.params) for request in requests]
            if all(each is None for each in compiling):
                self._start(first_id, generation, requests, [None] * len(requests))
                return
            self._compiling[first_id] = _Compiling(generation, requests, compiling)
            for each in compiling:
                if each is not None:
                    each.add_done_callback(lambda _: self._wake())

    def _add_texts(self, task: Task) -> None:
        try:
            is_awake = self._wake_engine()
        except Exception as error:
            self._embedder.fail(task, error)
        else:
            if is_awake:
                self._embedder.add(task)

    def _start_compiled(self) -> None:
        for first_id, each in list(self._compiling.items()):
            task = each.generation.task
            if task.cancel_reason or task.is_leaving:
                for compiling in each.compiling:
                    if compiling is not None:
                        compiling.cancel()
                del self._compiling[first_id]
                if task.cancel_reason:
                    task.finish_cancelled()
                else:
                    task.release()
            elif each.is_done:
                del self._compiling[first_id]
                with self._answering(task, each.generation):
                    compiled = [None if one is None else one.result() for one in each.compiling]
                    self._start(first_id, each.generation, each.requests, compiled)

    def _start(
        self, first_id: str, generation: AnyGeneration, requests: Sequence[SequenceRequest], compiled: list[Any]
    ) -> None:
        """All sequences of a task, or none of them."""
        if not self._wake_engine():
            return
        added: list[str] = []
        try:
            for number, (request, one) in enumerate(zip(requests, compiled, strict=True)):
                sequence_id = f"{first_id}/{number}" if number else first_id
                self._add_sequence(sequence_id, number, generation, request, one)
                added.append(sequence_id)
        except Exception:
            for sequence_id in added:
                self._engine.abort(sequence_id)
            raise
        generation.sequence_ids = added
        self._generations.update(dict.fromkeys(added, generation))

    def _wake_engine(self) -> bool:
        """False where the pod ends instead, and another one loads what is there now. Raises what `Engine.wake` does."""
        try:
            self._engine.wake()
        except CheckpointChangedError as error:
            self._end_pod(f"{self._model.name}: {error}")
            return False
        return True

    def _add_sequence(
        self, sequence_id: str, number: int, generation: AnyGeneration, request: SequenceRequest, compiled: Any
    ) -> None:
        """Behind the tokens of an earlier attempt, and behind a context, where there are such."""
        context, token_ids, salt = generation.context, request.prompt_ids, request.cache_salt
        options: dict[str, Any] = {"compiled": compiled, "priority": request.priority, "cache_salt": salt}
        options["output_ids"], *options["other_output_ids"] = generation.outputs(number)
        if context is None or generation.task.assignment.method == "cache":
            self._engine.add(sequence_id, token_ids, request.params, **options)
            if context is not None:
                self._engine.preserve(sequence_id, context.context_id, context.ttl_s)
        else:  # made here, or by another executor: then it is computed now
            self._engine.add_context(context.context_id, token_ids[: context.num_tokens], context.ttl_s, salt)
            rest = token_ids[context.num_tokens :]
            self._engine.add(sequence_id, rest, request.params, context_id=context.context_id, **options)

    @contextmanager
    def _answering(self, task: Task, generation: AnyGeneration | None = None) -> Iterator[None]:
        """What goes wrong before a task is in the engine is its answer."""
        try:
            yield
        except sdk.errors.InputCancelled:
            task.finish_cancelled()
        except Exception as error:
            self._fail_task(task, error, generation)

    def _leave_engine(self, generation: AnyGeneration) -> None:
        """All sequences of a task: what of them still runs is aborted."""
        for sequence_id in generation.sequence_ids:
            if self._generations.pop(sequence_id, None) is not None and not generation.is_complete:
                with suppress(UnknownSequenceError):  # it has ended
                    self._engine.abort(sequence_id)

    def _release(self, sequence_id: str) -> None:
        """It goes on in another pod."""
        self._flush(sequence_id)
        generation = self._generations.get(sequence_id)
        if generation is not None:
            self._leave_engine(generation)
            generation.leave()

    def _step(self) -> list[SequenceOutput]:
        if self._engine.is_sleeping:
            return []
        try:
            return self._engine.step()
        except Exception as error:  # one broken step must not leave its sequences without an answer
            traceback.print_exc()
            self._prefills.fail(self._engine, describe(error))
            self._texts.fail(FlowServeError(f"a step of the engine failed: {describe(error)}"))
            for sequence_id in list(self._generations):
                if sequence_id in self._generations and not self._generations[sequence_id].is_complete:
                    self._fail(sequence_id, FlowServeError(f"a step of the engine failed: {describe(error)}"))
            return []

    def _receive(self, output: SequenceOutput) -> None:
        if self._prefills.take(output) or self._texts.take(output):
            return
        generation = self._generations.get(output.sequence_id)
        if generation is None:  # another sequence of its task has failed in this very step
            return
        if output.error is not None:
            if self._engine.loading_error is not None:
                return  # they are all told so in a moment
            kind = InvalidGrammarError if output.is_request_fault else FlowServeError
            self._fail(output.sequence_id, kind(output.error))
            return
        try:
            generation.receive(output)
        except Exception as error:  # what a model writes must not end the pod, nor the others' answers
            self._fail_unread(output.sequence_id, error)

    def _flush(self, sequence_id: str) -> None:
        generation = self._generations.get(sequence_id)
        if generation is None or sequence_id != generation.sequence_ids[0]:
            return
        try:
            if generation.flush():
                self._leave_engine(generation)
        except LinkClosed:
            raise
        except (sdk.errors.ValueTooLarge, sdk.errors.StreamReplayMismatch) as error:
            self._fail(sequence_id, error)
        except Exception as error:
            self._fail_unread(sequence_id, error)

    def _fail_unread(self, sequence_id: str, error: Exception) -> None:
        traceback.print_exc()
        self._fail(sequence_id, FlowServeError(f"the answer could not be read: {describe(error)}"))

    def _fail(self, sequence_id: str, error: Exception) -> None:
        """Its whole task, of which some may still go on in the engine."""
        generation = self._generations[sequence_id]
        self._leave_engine(generation)
        self._fail_task(generation.task, error, generation)

    def _fail_task(self, task: Task, error: Exception, generation: AnyGeneration | None) -> None:
        if isinstance(generation, OpenAIGeneration):
            generation.fail(error)
        elif task.assignment.method in GENERATION_METHODS:
            openai_prompts.fail(task, error, RequestFields())
        else:
            task.fail(self._as_model_error(error))

    def _as_model_error(self, error: Exception) -> Exception:
        if isinstance(error, PromptTooLongError):
            return sdk.errors.PromptTooLongError(f"{self._model.name}: {error}")
        if isinstance(error, FlowServeError):
            return sdk.errors.ModelError(f"{self._model.name}: {error}")
        return error
