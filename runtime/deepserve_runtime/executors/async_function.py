"""Runs the user's coroutines and asynchronous generators, side by side on the pod's one event loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from typing import Any

from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import Value
from deepserve_runtime import plain_values
from deepserve_runtime.coroutines import CoroutineThread, CreditGate
from deepserve_runtime.target import Target
from deepserve_runtime.task import Task

Encode = Callable[[Task, Any], tuple[Value, Buffer]]
Fail = Callable[[Task, BaseException], None]
LeaveIfCopy = Callable[[BaseException | None], None]


class AsyncFunctions:
    def __init__(self, encode: Encode, fail: Fail, leave_if_copy: LeaveIfCopy) -> None:
        self.thread = CoroutineThread()
        self._encode = encode
        self._fail = fail
        self._leave_if_copy = leave_if_copy

    def run(self, task: Task, target: Target, context: contextvars.Context) -> None:
        self.thread.run(task, lambda task: self._run(task, target), context)

    async def _run(self, task: Task, target: Target) -> None:
        value: Value = Value()
        payload: Buffer = b""
        try:
            args, kwargs = plain_values.arguments(task, target.call)
            if target.is_generator:
                await self._stream(task, target.call(*args, **kwargs))
            else:
                result = await target.call(*args, **kwargs)
                self._leave_if_copy(None)
                value, payload = self._encode(task, result)
        except BaseException as error:
            self._leave_if_copy(error)
            task.close_to_interrupts()
            if isinstance(error, asyncio.CancelledError) and not task.cancel_reason:
                error = RuntimeError("the coroutine was cancelled by its own code")
            self._fail(task, error)
        else:
            task.close_to_interrupts()
            task.finish(value, payload)

    async def _stream(self, task: Task, items: AsyncIterator[Any]) -> None:
        gate = CreditGate(task)
        try:
            async for item in items:
                self._leave_if_copy(None)
                value, payload = self._encode(task, item)
                await gate.wait()
                task.emit(value, payload)
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()
