"""An instance of the user's class, and its `enter`, `method` and `exit` functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from deepserve.protocol.messages import Value
from deepserve_runtime import sdk
from deepserve_runtime.coroutines import CoroutineThread


class ClassHooks:
    """Makes the instance; the hooks run in the order of their definition, base classes first."""

    def __init__(self, target: Callable[..., Any], params: bytes, coroutines: CoroutineThread) -> None:
        self._coroutines = coroutines
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
            self._coroutines.wait_for(hook())
        else:
            hook()
