"""Gathers the tasks of batched functions and runs them together, on a task thread or on the pod's event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from deepserve_runtime import sdk
from deepserve_runtime.batch import Batch
from deepserve_runtime.core import batching
from deepserve_runtime.core.lifecycle import TaskKey
from deepserve_runtime.target import Target
from deepserve_runtime.task import Task
from deepserve_runtime.task_threads import TaskThread

if TYPE_CHECKING:
    from deepserve.protocol.framing import Buffer
    from deepserve.protocol.messages import Value


@dataclass(frozen=True)
class UserCode:
    """How the function executor runs code of its function, and what it does with the outcome."""

    run_single: Callable[[Task, Target], None]
    run_on_thread: Callable[[Batch, Callable[[Batch, TaskThread], None]], None]
    run_on_loop: Callable[[Batch, Callable[[Batch], Coroutine[Any, Any, None]]], None]
    encode: Callable[[Task, Any], tuple[Value, Buffer]]
    fail: Callable[[Task, BaseException], None]
    leave_if_copy: Callable[[BaseException | None], None]


class Batches:
    """Of one pod. A class with a batched method sends all its methods here, so that no more of them run side by side
    than `concurrent` allows: a method that is not batched is a batch of one."""

    def __init__(self, max_runs: int, code: UserCode) -> None:
        self._code = code
        self._plan = batching.BatchPlan(max(1, max_runs))
        self._lock = threading.Lock()
        self._waiting: dict[TaskKey, tuple[Task, Target]] = {}
        self._batch_of: dict[TaskKey, Batch] = {}
        self._clock = _Clock(lambda: self._handle(batching.ClockRang()))

    def add(self, task: Task, target: Target) -> None:
        """On the reader thread."""
        self._waiting[task.key] = task, target
        task.open_to_interrupts(partial(self._on_cancel, task))
        size, wait_s = (target.batching.max_batch_size, target.batching.wait_s) if target.batching else (1, 0.0)
        self._handle(batching.InputArrived(task.key, task.assignment.method, size, wait_s))

    def _on_cancel(self, task: Task) -> None:
        """On the reader thread. A task that waits ends at once; one that runs is its batch's matter."""
        if self._handle(batching.InputLeft(task.key)):
            return task.finish_cancelled()
        batch = self._batch_of.get(task.key)
        if batch is not None:
            batch.drop(task)

    def _handle(self, event: batching.Event) -> bool:
        """Returns whether an input was dropped."""
        starts: list[Callable[[], None]] = []
        is_dropped = False
        with self._lock:
            for action in self._plan.handle(event, time.monotonic()):
                if isinstance(action, batching.StartRun):
                    starts.append(self._prepare([self._waiting.pop(key) for key in action.keys]))
                elif isinstance(action, batching.DropInput):
                    del self._waiting[action.key]
                    is_dropped = True
                else:
                    self._clock.ring_at(action.at_s)
        for start in starts:
            start()
        return is_dropped

    def _prepare(self, taken: list[tuple[Task, Target]]) -> Callable[[], None]:
        target = taken[0][1]
        if target.batching is None:
            return partial(self._run_single, taken[0][0], target)
        return partial(self._start, self._batch([task for task, _ in taken], target))

    def _batch(self, tasks: list[Task], target: Target) -> Batch:
        batch = Batch(tasks, target, self._code.fail, self._code.encode, self._on_batch_end)
        self._batch_of |= dict.fromkeys((task.key for task in tasks), batch)
        return batch

    def _run_single(self, task: Task, target: Target) -> None:
        task.after_finish = lambda: self._handle(batching.RunEnded())
        self._code.run_single(task, target)

    def _start(self, batch: Batch) -> None:
        if batch.target.is_async:
            self._code.run_on_loop(batch, self._run_async)
        else:
            self._code.run_on_thread(batch, self._run)

    # --- the run of a batch ------------------------------------------------------------------------------

    def _run(self, batch: Batch, thread: TaskThread) -> None:
        work = batch.work()
        try:
            part = next(work)
            while True:
                try:
                    returned = thread.interruptibly(batch, part.call)
                    self._code.leave_if_copy(None)
                except BaseException as error:
                    self._code.leave_if_copy(error)
                    part = work.throw(error)
                else:
                    part = work.send(returned)
        except StopIteration:
            pass
        finally:
            self._on_batch_end(batch)

    async def _run_async(self, batch: Batch) -> None:
        work = batch.work()
        try:
            part = next(work)
            while True:
                try:
                    returned = await part.call()
                    self._code.leave_if_copy(None)
                except BaseException as error:
                    self._code.leave_if_copy(error)
                    if isinstance(error, asyncio.CancelledError) and not batch.cancel_reason:
                        error = RuntimeError("the coroutine was cancelled by its own code")
                    part = work.throw(error)
                else:
                    part = work.send(returned)
        except StopIteration:
            pass
        finally:
            batch.close_to_interrupts()
            self._on_batch_end(batch)

    def _on_batch_end(self, batch: Batch) -> None:
        """Its tasks that were stopped end; those that are left run again, without waiting for company."""
        if batch.has_ended:
            return
        batch.has_ended = True
        sdk.context.stopping.discard(batch.key)  # its first task's, which may be among those that run again
        if batch.before_finish is not None:
            batch.before_finish()
        for task in batch.unfinished:
            if task.cancel_reason:
                task.finish_cancelled()
        left = batch.unfinished
        again = self._batch(left, batch.target) if left else None
        if again is not None:
            again.decoded = batch.decoded
        for task in batch.tasks:
            if task.is_finished:
                self._batch_of.pop(task.key, None)
        if again is None:
            self._handle(batching.RunEnded())
            return
        for task in left:
            if task.cancel_reason:  # it came when nobody could hear it
                again.drop(task)
        self._start(again)


class _Clock:
    """Calls `ring` on a thread of its own at the time that it was last told."""

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring
        self._changed = threading.Condition()
        self._at_s: float | None = None
        self._is_running = False

    def ring_at(self, at_s: float) -> None:
        with self._changed:
            self._at_s = at_s
            self._changed.notify()
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="deepserve-batches", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._at_s is None or (left_s := self._at_s - time.monotonic()) > 0:
                    self._changed.wait(left_s if self._at_s is not None else None)
                self._at_s = None
            self._ring()
