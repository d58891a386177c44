"""QueryVerb: a verb that asks the controller something and waits for the answer, with its `.aio` twin."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast

from deepserve._event_loop import in_thread, refuse_on_loop

P = ParamSpec("P")
R = TypeVar("R")


class QueryVerb(Generic[P, R]):
    """name: how the user wrote it, for the error on a running event loop."""

    def __init__(self, name: str, ask: Callable[P, R]) -> None:
        functools.update_wrapper(cast("Callable[..., Any]", self), ask)
        self._name = name
        self._ask = ask

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        refuse_on_loop(self._name)
        return self._ask(*args, **kwargs)

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same, waited for in a thread beside the event loop."""
        return await in_thread(functools.partial(self._ask, *args, **kwargs))
