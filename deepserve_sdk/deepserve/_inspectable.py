"""What `inspect` needs to see a decorated function as the function that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Inspectable:
    """An object over `_target`, which is asked for what makes it a coroutine or a generator function."""

    _target: Callable[..., Any]

    @property
    def __code__(self) -> Any:
        return self._target.__code__

    @property
    def __defaults__(self) -> Any:
        return getattr(self._target, "__defaults__", None)

    @property
    def __kwdefaults__(self) -> Any:
        return getattr(self._target, "__kwdefaults__", None)
