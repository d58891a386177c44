"""Runs the user's functions, generators, coroutines and class instances."""

from __future__ import annotations

import contextvars
import os
import traceback
from collections.abc import Callable, Coroutine, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import PodMemory, Value, Weights
from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime import plain_values, sdk
from deepserve_runtime.bundle_store import BundleStore, Fetch
from deepserve_runtime.chunk import Chunk
from deepserve_runtime.hooks import ClassHooks
from deepserve_runtime.loaded_code import LoadedCode
from deepserve_runtime.pod import Pod
from deepserve_runtime.step_clock import StepClock
from deepserve_runtime.target import Target
from deepserve_runtime.task import Task, flush_prints
from deepserve_runtime.task_threads import TaskThread, TaskThreads

if TYPE_CHECKING:
    from deepserve_runtime.batch import Batch
    from deepserve_runtime.executors.async_function import AsyncFunctions
    from deepserve_runtime.executors.batches import Batches
    from deepserve_runtime.executors.chunks import ChunkRunner


class FunctionExecutor:
    def __init__(
        self, pod: Pod, spec: FunctionSpec, fetch: Fetch, threads: TaskThreads, code: LoadedCode | None = None
    ) -> None:
        """`code`: already loaded, in the template that the pod was forked from."""
        self.slots = max(1, spec.scaling.max_inputs)
        self.source = "file" if code is None else "fork"
        self.source_reason, self.is_template_stale = "", False
        self.weights, self.memory = Weights(), PodMemory()
        self._pod = pod
        self._spec = spec
        self._fetch = fetch
        self._threads = threads
        self._base_context = contextvars.copy_context()
        self._code = code
        self._hooks: ClassHooks | None = None
        self._targets: dict[str, Target] = {}
        self._batches: Batches | None = None

    def load(self) -> dict[str, float]:
        steps = StepClock()
        code = self._code
        if code is None:
            store = BundleStore(self._pod.bundles, self._fetch)
            code = LoadedCode(self._spec, store, self._wait_for, steps)
        code.enter_pod(self._wait_for, steps)
        self._entry, self._hooks = code.entry, code.hooks
        if self._hooks is None:
            self._targets[""] = Target.of(self._entry.target)
        self._base_context = contextvars.copy_context()
        if self._spec.scaling.max_batch_size > 0:
            self._batches = self._make_batches()
        return steps.steps_ms

    def unload(self) -> None:
        if self._hooks is not None:
            self._hooks.exit()

    def assign(self, task: Task) -> None:
        try:
            target = self._target(task.assignment.method)
        except (AttributeError, TypeError) as error:
            task.fail(error)
            return
        if isinstance(task, Chunk):
            self._start_chunk(task, target)
        elif self._batches is not None:
            self._batches.add(task, target)
        else:
            self.start(task, target)

    def start(self, task: Task, target: Target) -> None:
        """Run it beside whatever runs."""
        if target.is_async:
            self._async_functions.run(task, target, self._base_context.copy())
        else:
            self._threads.run(task, lambda task, thread: self._run_on_thread(task, thread, target.call))

    def _start_chunk(self, chunk: Chunk, target: Target) -> None:
        runner = self._chunks
        if target.is_async:
            thread = self._async_functions.thread
            thread.run(chunk, lambda _: runner.run_async(chunk, target), self._base_context.copy())
        else:
            self._threads.run(chunk, lambda _, thread: runner.run(chunk, thread, target.call))

    @cached_property
    def _chunks(self) -> ChunkRunner:
        from deepserve_runtime.executors.chunks import ChunkRunner

        return ChunkRunner(self._base_context, self._encode, self._entry.may_retry, self._leave_if_copy)

    def _make_batches(self) -> Batches:
        """Only for what is batched: most pods never need it."""
        from deepserve_runtime.executors.batches import Batches, UserCode

        def run_on_thread(batch: Batch, run: Callable[[Batch, TaskThread], None]) -> None:
            context = self._base_context.copy()
            context.run(sdk.current_task.set, batch.context)
            self._threads.run(batch, lambda _, thread: context.run(run, batch, thread))

        def run_on_loop(batch: Batch, run: Callable[[Batch], Coroutine[Any, Any, None]]) -> None:
            self._async_functions.thread.run(batch, lambda _: run(batch), self._base_context.copy())

        code = UserCode(self.start, run_on_thread, run_on_loop, self._encode, self._fail, self._leave_if_copy)
        return Batches(self.slots // self._spec.scaling.max_batch_size, code)

    def _target(self, method: str) -> Target:
        target = self._targets.get(method)
        if target is None:
            if self._hooks is None:
                raise AttributeError(f"{self._spec.label} is a function, it has no method {method!r}")
            target = self._targets[method] = Target.of(self._hooks.method(method))
        return target

    @cached_property
    def _async_functions(self) -> AsyncFunctions:
        """At the first asynchronous code: most pods never need an event loop, nor asyncio."""
        from deepserve_runtime.executors.async_function import AsyncFunctions

        return AsyncFunctions(self._encode, self._fail, self._leave_if_copy)

    def _wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._async_functions.thread.wait_for(coroutine)

    # --- synchronous code, on a task thread ------------------------------------------------------------

    def _run_on_thread(self, task: Task, thread: TaskThread, target: Callable[..., Any]) -> None:
        context = self._base_context.copy()
        context.run(sdk.current_task.set, task.context)
        context.run(self._run, task, thread, target)

    def _run(self, task: Task, thread: TaskThread, target: Callable[..., Any]) -> None:
        try:
            value, payload = thread.interruptibly(task, lambda: self._call(task, target))
        except BaseException as error:
            self._fail(task, error)
        else:
            if task.was_interrupted:
                task.finish_cancelled()
            else:
                task.finish(value, payload)

    def _call(self, task: Task, target: Callable[..., Any]) -> tuple[Value, Buffer]:
        try:
            args, kwargs = plain_values.arguments(task, target)
            result = target(*args, **kwargs)
            self._leave_if_copy(None)
            if task.assignment.kind != "stream":
                return self._encode(task, result)
            if not hasattr(result, "__next__"):
                raise TypeError(f"{self._spec.label} is called as a generator but returned {type(result).__name__}")
            self._stream(task, result)
            return Value(), b""
        except BaseException as error:
            self._leave_if_copy(error)
            raise

    def _stream(self, task: Task, items: Iterator[Any]) -> None:
        """Computes one item ahead of the reader's credit, so that the end needs none."""
        try:
            for item in items:
                self._leave_if_copy(None)
                value, payload = self._encode(task, item)
                task.wait_for_credit()
                task.emit(value, payload)
        finally:
            if hasattr(items, "close"):
                items.close()

    # --- outcomes --------------------------------------------------------------------------------------

    def _encode(self, task: Task, result: Any) -> tuple[Value, bytes]:
        if task.assignment.value.format == "msgpack":
            return plain_values.encode_result(result, self._spec.label)
        # What is to be compared byte by byte travels as it is.
        segments = "" if task.assignment.replay == "verify" else self._pod.segments
        return sdk.encode_value(result, segments=segments, error=sdk.errors.UnpicklableResult)

    def _fail(self, task: Task, error: BaseException) -> None:
        unsuitable = isinstance(error, sdk.errors.SerializationError | sdk.errors.StreamReplayMismatch)
        task.fail(error, may_retry=not unsuitable and self._entry.may_retry(error))

    def _leave_if_copy(self, error: BaseException | None) -> None:
        """A child that user code forked, and which ran to the end of the task, ends here: the pod answers for it."""
        if self._pod.is_copy:
            if error is not None and not isinstance(error, SystemExit):
                traceback.print_exception(error)
            flush_prints()
            os._exit(_exit_code(error))


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 1
