"""Runs the tools that a model calls: here, or in the pods of a `@deepserve.function`.

Whatever a tool raises becomes a text for the model; only what ends the run anyway (a lost controller, a cancelled
request) goes on as an exception.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from deepserve._agent_events import ToolReturned
from deepserve._agent_loop import CallTool
from deepserve._tool import InvalidArguments, Tool
from deepserve.errors import (
    AsyncUsageError,
    CallCancelled,
    ControllerLost,
    ControllerUnreachable,
    InvalidOption,
    ProtocolError,
    UnguardedCallError,
)

_FATAL = (
    AsyncUsageError,
    CallCancelled,
    ControllerLost,
    ControllerUnreachable,
    ProtocolError,
    UnguardedCallError,
)
HERE = "here"


class ToolRunner:
    """The tools of one agent by name. Raises InvalidOption where two have the same name."""

    def __init__(self, tools: Sequence[Tool[..., Any]]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) < len(tools):
            names = [tool.name for tool in tools]
            raise InvalidOption(f"two tools have the same name: {', '.join(sorted(names))}")

    def run_together(self, calls: Sequence[CallTool]) -> Iterator[ToolReturned]:
        """The tools' results as they come; calls that run in pods go out before any local tool begins."""
        remote: list[_RemoteCall] = []
        try:
            local: list[CallTool] = []
            for call in calls:
                if self._is_remote(call):
                    remote.append(_RemoteCall(call, self._tools[call.name]))
                else:
                    local.append(call)
            yield from self._run_local(local)
            while remote:
                yield remote[0].wait()
                remote.pop(0)
        finally:
            for pending in remote:
                pending.cancel()

    async def run_together_aio(self, calls: Sequence[CallTool]) -> list[ToolReturned]:
        """The tools' results in the order in which they came."""
        import anyio

        returned: list[ToolReturned] = []

        async def run_one(call: CallTool) -> None:
            returned.append(await self._run_aio(call))

        try:
            async with anyio.create_task_group() as group:
                for call in calls:
                    group.start_soon(run_one, call)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # one of _FATAL ended the others
        return returned

    def _run_local(self, calls: list[CallTool]) -> Iterator[ToolReturned]:
        if len(calls) <= 1:
            yield from map(self._run, calls)
            return
        pool = ThreadPoolExecutor(len(calls), thread_name_prefix="deepserve-tool")
        try:
            # Each thread gets a copy of the context, so that calls made by tools stay children of this request.
            futures = [pool.submit(contextvars.copy_context().run, self._run, call) for call in calls]
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, call: CallTool) -> ToolReturned:
        begin = time.perf_counter()
        try:
            tool, arguments = self._checked(call)
            begin = time.perf_counter()  # the first check of all imports pydantic, which is not the tool's time
            result = tool.function(**arguments)
            return _returned(call, _run_to_end(result) if inspect.isawaitable(result) else result, begin)
        except _FATAL:
            raise
        except Exception as error:
            return _failed(call, error, begin)

    async def _run_aio(self, call: CallTool) -> ToolReturned:
        import anyio.to_thread

        begin = time.perf_counter()
        spawned: Any = None
        try:
            tool, arguments = self._checked(call)
            begin = time.perf_counter()
            if tool.remote_function is not None:
                spawned = await tool.remote_function.spawn.aio(**arguments)
                result = await spawned.get.aio()
            elif inspect.iscoroutinefunction(tool.function):
                result = await tool.function(**arguments)
            else:
                function = functools.partial(tool.function, **arguments)
                result = await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
            return _returned(call, await result if inspect.isawaitable(result) else result, begin, spawned)
        except _FATAL:
            raise
        except Exception as error:
            return _failed(call, error, begin, spawned)
        except BaseException:  # the run is cancelled: a call in a pod must not go on for nobody
            if spawned is not None:
                spawned.cancel()
            raise

    def _checked(self, call: CallTool) -> tuple[Tool[..., Any], dict[str, Any]]:
        tool = self._tools.get(call.name)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            raise InvalidArguments(f"there is no tool {call.name!r}; the tools are: {known}")
        return tool, tool.checked_arguments(call.arguments)

    def _is_remote(self, call: CallTool) -> bool:
        tool = self._tools.get(call.name)
        return tool is not None and tool.remote_function is not None


class _RemoteCall:
    """A tool's call in a pod, under way as soon as it is made."""

    def __init__(self, call: CallTool, tool: Tool[..., Any]) -> None:
        self._call = call
        self._begin = time.perf_counter()
        self._spawned: Any = None
        self._refused: ToolReturned | None = None
        try:
            self._spawned = tool.remote_function.spawn(**tool.checked_arguments(call.arguments))
        except _FATAL:
            raise
        except Exception as error:
            self._refused = _failed(call, error, self._begin)

    def wait(self) -> ToolReturned:
        if self._refused is not None:
            return self._refused
        try:
            return _returned(self._call, self._spawned.get(), self._begin, self._spawned)
        except _FATAL:
            raise
        except Exception as error:
            return _failed(self._call, error, self._begin, self._spawned)

    def cancel(self) -> None:
        if self._spawned is not None:
            self._spawned.cancel()


def result_text(result: Any) -> str:
    """What the model reads of a tool's result: text as it is, everything else as JSON."""
    if isinstance(result, str):
        return _readable(result)
    import msgspec

    return _readable(json.dumps(msgspec.to_builtins(result, enc_hook=_to_plain), ensure_ascii=False))


def _readable(text: str) -> str:
    """Without halves of characters, such as file names of other encodings hold: they cannot be sent to a model."""
    return text.encode("utf-8", "replace").decode()


def _to_plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # a pydantic model
        return value.model_dump(mode="json")
    raise TypeError(f"a tool's result must be text or JSON, not {type(value).__qualname__}")


def _returned(call: CallTool, result: Any, begin: float, spawned: Any = None) -> ToolReturned:
    return ToolReturned(
        name=call.name,
        result=result,
        id=call.id,
        arguments=call.arguments,
        text=result_text(result),
        **_place(begin, spawned),
    )


def _failed(call: CallTool, error: Exception, begin: float, spawned: Any = None) -> ToolReturned:
    """What the model reads of a failure: its type tells as much as its text, but ours is of no use to a model."""
    kind = "" if isinstance(error, InvalidArguments) else f"{type(error).__name__}: "
    return ToolReturned(
        name=call.name,
        result=None,
        id=call.id,
        arguments=call.arguments,
        text=_readable(f"error: {kind}{_text_of(error)}"),
        failed=True,
        **_place(begin, spawned),
    )


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be made)"


def _place(begin: float, spawned: Any) -> dict[str, Any]:
    timings = getattr(spawned, "timings", None)
    if timings is None:
        return {"ms": (time.perf_counter() - begin) * 1e3, "where": HERE}
    return {"ms": timings.total_ms, "where": timings.pod_id}


def _run_to_end(awaitable: Any) -> Any:
    import anyio

    async def wait() -> Any:
        return await awaitable

    return anyio.run(wait)
