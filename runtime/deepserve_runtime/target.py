"""What a task of a function or class calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from deepserve_runtime import sdk
from deepserve_runtime.sdk import is_async_generator_function, is_coroutine_function, is_generator_function


class Target(NamedTuple):
    """What a task calls; looked into once, not at every call."""

    call: Callable[..., Any]
    is_async: bool
    is_generator: bool
    batching: sdk.Batching | None = None
    """Where it is called with one item and runs on lists."""

    @classmethod
    def of(cls, call: Callable[..., Any]) -> Target:
        is_async_generator = is_async_generator_function(call)
        is_async = is_async_generator or is_coroutine_function(call)
        return cls(call, is_async, is_async_generator or is_generator_function(call), sdk.Batching.of(call))
