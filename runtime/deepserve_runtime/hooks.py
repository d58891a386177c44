"""An instance of the user's class, and its `enter`, `method` and `exit` functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from deepserve.protocol.messages import Value
from deepserve_runtime import sdk

WaitFor = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the pod's event loop, to its end."""


class ClassHooks:
    """Makes the instance; the hooks run in the order of their definition, base classes first."""

    def __init__(self, target: Callable[..., Any], params: bytes, wait_for: WaitFor) -> None:
        self._wait_for = wait_for
        kwargs = sdk.decode_value(Value("pickle", len(params)), params) if params else {}
        self._instance = target(**kwargs)

    def enter(self) -> None:
        for hook in self._named("enter"):
            self._run(hook)

    def exit(self) -> None:
        for hook in self._named("exit"):
            self._run(hook)

    def method(self, name: str) -> Callable[..., Any]:
        """Raises AttributeError for what is not decorated with `method`."""
        if getattr(getattr(type(self._instance), name, None), sdk.HOOK_ATTRIBUTE, "") != "method":
            raise AttributeError(f"{type(self._instance).__name__} has no @deepserve.method {name!r}")
        found: Callable[..., Any] = getattr(self._instance, name)
        return found

    def _named(self, kind: str) -> Iterator[Callable[..., Any]]:
        names: dict[str, None] = {}
        for base in reversed(type(self._instance).__mro__):
            for name, member in vars(base).items():
                if getattr(member, sdk.HOOK_ATTRIBUTE, "") == kind:
                    names[name] = None
        for name in names:
            yield getattr(self._instance, name)

    def _run(self, hook: Callable[..., Any]) -> None:
        if inspect.iscoroutinefunction(hook):
            self._wait_for(hook())
        else:
            hook()
