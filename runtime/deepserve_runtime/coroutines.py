"""The pod's one event loop, on a thread of its own, started by the first asynchronous code."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from deepserve_runtime import sdk
from deepserve_runtime.task import Task

T = TypeVar("T")


class CoroutineThread:
    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, args=(loop,), name="deepserve-loop", daemon=True).start()
                self._loop = loop
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it on the loop and waits here; for hooks."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def run(self, task: Task, run: Callable[[Task], Coroutine[Any, Any, None]], context: contextvars.Context) -> None:
        """Starts run(task) on the loop; a cancel of the task cancels the coroutine."""
        loop = self.loop

        def start() -> None:
            context.run(sdk.current_task.set, task.context)
            coroutine = loop.create_task(run(task), context=context)
            coroutine.add_done_callback(partial(_report, task))
            try:
                task.open_to_interrupts(partial(loop.call_soon_threadsafe, coroutine.cancel))
            except sdk.errors.InputCancelled:
                coroutine.cancel()

        loop.call_soon_threadsafe(start)


def _report(task: Task, done: asyncio.Task[None]) -> None:
    """One that is cancelled before its first step never runs, and so cannot say how it ended; nor one that fails to."""
    if done.cancelled():
        task.finish_cancelled()
    elif (error := done.exception()) is not None:
        task.fail(error)


class CreditGate:
    """Lets a coroutine wait for stream credit that the reader thread grants."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._changed = asyncio.Event()
        task.watch(partial(asyncio.get_running_loop().call_soon_threadsafe, self._changed.set))

    async def wait(self) -> None:
        if self._task.may_send:
            return
        while not self._task.may_send:
            self._changed.clear()
            if not self._task.may_send:
                await self._changed.wait()
        self._task.note_credit_came()
