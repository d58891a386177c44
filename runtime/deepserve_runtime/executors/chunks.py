"""Runs the inputs of chunks one after the other, on a task thread or on the pod's event loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deepserve_runtime import sdk
from deepserve_runtime.chunk import Chunk
from deepserve_runtime.target import Target
from deepserve_runtime.task import Task
from deepserve_runtime.task_threads import TaskThread

if TYPE_CHECKING:
    from deepserve.protocol.framing import Buffer
    from deepserve.protocol.messages import Value

Encode = Callable[[Task, Any], "tuple[Value, Buffer]"]
LeaveIfCopy = Callable[[BaseException | None], None]
MayRetry = Callable[[BaseException], bool]


class ChunkRunner:
    """Each input has a context of its own, as if it had come alone."""

    def __init__(
        self, base: contextvars.Context, encode: Encode, may_retry: MayRetry, leave_if_copy: LeaveIfCopy
    ) -> None:
        self._base = base
        self._encode = encode
        self._may_retry = may_retry
        self._leave_if_copy = leave_if_copy

    # --- on a task thread ------------------------------------------------------------------------------

    def run(self, chunk: Chunk, thread: TaskThread, target: Callable[..., Any]) -> None:
        """What is told is told out of a cancel's reach, so that no half of it is lost."""
        chunk.begin()
        try:
            while not chunk.is_empty:
                thread.interruptibly(chunk, lambda: self._run_some(chunk, target))
                if chunk.was_interrupted:  # and its code went on all the same
                    return chunk.finish_cancelled()
                if not chunk.is_empty:
                    chunk.tell()
        except sdk.errors.InputCancelled:
            chunk.finish_cancelled()
        except BaseException as error:
            chunk.fail(error)
        else:
            chunk.finish_chunk()

    def _run_some(self, chunk: Chunk, target: Callable[..., Any]) -> None:
        while (position := chunk.next_position()) is not None:
            try:
                value, payload = self._base.copy().run(self._call, chunk, position, target)
            except BaseException as error:
                self._leave_if_copy(error)
                if chunk.cancel_reason:
                    raise
                chunk.ended_badly(error, self._judge(error))
            else:
                if chunk.was_interrupted:
                    return
                chunk.ended_well(value, payload)

    def _call(self, chunk: Chunk, position: int, target: Callable[..., Any]) -> tuple[Value, Buffer]:
        sdk.current_task.set(chunk.context_of(position))
        args, kwargs = chunk.arguments(position)
        result = target(*args, **kwargs)
        self._leave_if_copy(None)
        return self._encode(chunk, result)

    def _judge(self, error: BaseException) -> bool:
        return not isinstance(error, sdk.errors.SerializationError) and self._may_retry(error)

    # --- on the event loop -------------------------------------------------------------------------------

    async def run_async(self, chunk: Chunk, target: Target) -> None:
        chunk.begin()
        try:
            while not chunk.is_empty:
                await self._run_some_async(chunk, target)
                if not chunk.is_empty:
                    chunk.tell()
        except asyncio.CancelledError:
            chunk.close_to_interrupts()
            chunk.finish_cancelled()
        except BaseException as error:
            chunk.close_to_interrupts()
            chunk.fail(error)
        else:
            chunk.close_to_interrupts()
            chunk.finish_chunk()

    async def _run_some_async(self, chunk: Chunk, target: Target) -> None:
        loop = asyncio.get_running_loop()
        while (position := chunk.next_position()) is not None:
            try:
                call = self._call_async(chunk, position, target)
                value, payload = await loop.create_task(call, context=self._base.copy())
            except BaseException as error:
                self._leave_if_copy(error)
                if chunk.cancel_reason:
                    raise
                if isinstance(error, asyncio.CancelledError):
                    error = RuntimeError("the coroutine was cancelled by its own code")
                chunk.ended_badly(error, self._judge(error))
            else:
                chunk.ended_well(value, payload)

    async def _call_async(self, chunk: Chunk, position: int, target: Target) -> tuple[Value, Buffer]:
        sdk.current_task.set(chunk.context_of(position))
        args, kwargs = chunk.arguments(position)
        result = await target.call(*args, **kwargs)
        self._leave_if_copy(None)
        return self._encode(chunk, result)
