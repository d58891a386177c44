"""An instance of the user's class, and its `enter`, `method` and `exit` functions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from deepserve.protocol.messages import Value
from deepserve_runtime import sdk
from deepserve_runtime.sdk import is_coroutine_function

WaitFor = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on an event loop, to its end."""


class ClassHooks:
    """Makes the instance; the hooks run in the order of their definition, base classes first.

    `wait_for` is the pod's event loop, or in a template a loop that ends with the hook.
    """

    def __init__(self, target: Callable[..., Any], params: bytes, wait_for: WaitFor) -> None:
        self.wait_for = wait_for
        kwargs = sdk.decode_value(Value("pickle", len(params)), params) if params else {}
        self._instance = target(**kwargs)

    def enter(self, snap: bool) -> bool:
        """Those with `snap`, or those without it; whether there are any."""
        return self._run_all(sdk.hook_names(type(self._instance), "enter", snap))

    def has_enter(self, snap: bool) -> bool:
        return bool(sdk.hook_names(type(self._instance), "enter", snap))

    def exit(self) -> None:
        self._run_all(sdk.hook_names(type(self._instance), "exit"))

    def method(self, name: str) -> Callable[..., Any]:
        """Raises AttributeError for what is not decorated with `method`."""
        if getattr(getattr(type(self._instance), name, None), sdk.HOOK_ATTRIBUTE, "") != "method":
            raise AttributeError(f"{type(self._instance).__name__} has no @deepserve.method {name!r}")
        found: Callable[..., Any] = getattr(self._instance, name)
        return found

    def _run_all(self, names: list[str]) -> bool:
        for name in names:
            hook = getattr(self._instance, name)
            if is_coroutine_function(hook):
                self.wait_for(hook())
            else:
                hook()
        return bool(names)
