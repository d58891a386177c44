"""Which event loop runs here, without importing one, and how another thread wakes it."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from deepserve.errors import AsyncUsageError

R = TypeVar("R")


def running_library() -> str:
    """`asyncio` or `trio` where this thread runs an event loop of it, else empty."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return "asyncio"
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return "trio"
    return ""


def refuse_on_loop(verb: str) -> None:
    """Raises AsyncUsageError where a blocking verb would stop a running event loop; not in IPython's cells."""
    library = running_library()
    if library and not _is_ipython():
        raise AsyncUsageError(f"{verb} would block the running {library} event loop: await {verb}.aio(...) instead")


def _is_ipython() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


async def in_thread(work: Callable[[], R]) -> R:
    """What `work` returns, which blocks: in a thread beside the event loop."""
    if running_library() == "trio":
        trio: Any = sys.modules["trio"]
        return cast(R, await trio.to_thread.run_sync(work))
    import asyncio

    return await asyncio.to_thread(work)


def start_beside(work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run `work`, which raises no Exception, in a task of its own; returns what cancels it."""
    if running_library() == "trio":
        trio: Any = sys.modules["trio"]
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await work()

        trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())
        return cast(Callable[[], None], scope.cancel)
    import asyncio

    task = asyncio.get_running_loop().create_task(work())

    def cancel() -> None:
        if not task.get_loop().is_closed():
            task.cancel()

    return cancel


async def wait_for_wake(register: Callable[[Callable[[], None]], bool], timeout_s: float | None) -> None:
    """Register a wake-up that any thread may call and wait for it, or for the timeout.

    `register` returns False where there is nothing to wait for any more.
    """
    if running_library() == "trio":
        await _wait_trio(register, timeout_s)
    else:
        await _wait_asyncio(register, timeout_s)


async def _wait_asyncio(register: Callable[[Callable[[], None]], bool], timeout_s: float | None) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(finish)
        except RuntimeError:  # the loop was closed meanwhile
            pass

    if register(wake):
        await asyncio.wait([future], timeout=timeout_s)


async def _wait_trio(register: Callable[[Callable[[], None]], bool], timeout_s: float | None) -> None:
    trio: Any = sys.modules["trio"]
    event = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def wake() -> None:
        try:
            token.run_sync_soon(event.set)
        except trio.RunFinishedError:
            pass

    if register(wake):
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
            await event.wait()
