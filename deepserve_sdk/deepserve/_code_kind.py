"""What a function is, from its code's flags: as `inspect` tells, which takes longer to import than all else here."""

from __future__ import annotations

from functools import partial
from types import CodeType, MethodType
from typing import Any

_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200


def is_generator_function(target: Any) -> bool:
    return bool(_flags(target) & _GENERATOR)


def is_async_generator_function(target: Any) -> bool:
    return bool(_flags(target) & _ASYNC_GENERATOR)


def is_coroutine_function(target: Any) -> bool:
    """Also one that `inspect.markcoroutinefunction` declares to be one."""
    return bool(_flags(target) & _COROUTINE) or hasattr(_unwrapped(target), "_is_coroutine_mark")


def _flags(target: Any) -> int:
    """Of functions, and of objects that look like one because they wrap it (methods of instances do)."""
    code = getattr(_unwrapped(target), "__code__", None)
    return code.co_flags if isinstance(code, CodeType) else 0


def _unwrapped(target: Any) -> Any:
    """The function behind methods and partials."""
    while True:
        if isinstance(target, MethodType):
            target = target.__func__
        elif isinstance(target, partial):
            target = target.func
        else:
            return target
