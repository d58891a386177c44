"""What a pod calls: the user's function or class, found by a CodeRef."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HOOK_ATTRIBUTE = "__deepserve_hook__"
"""Set on the functions of a class by the decorators: `enter`, `method` or `exit`."""


@dataclass(frozen=True)
class Entry:
    """`target` is the undecorated function, or the undecorated class.

    A `bundle` CodeRef resolves to a module attribute whose `__deepserve_entry__` is the Entry (a plain
    function without one is its own target); a `pickle` bundle is one dump of `dict[qualname, Entry]`.
    """

    target: Callable[..., Any]
    retry_on: tuple[type[BaseException], ...] = (Exception,)

    def may_retry(self, error: BaseException) -> bool:
        """Retries(on=...), judged where the exception's class exists."""
        return isinstance(error, self.retry_on)


def entry_of(found: Any) -> Entry:
    """The Entry behind a resolved name. Raises TypeError for what cannot be called."""
    entry = getattr(found, "__deepserve_entry__", None)
    if isinstance(entry, Entry):
        return entry
    if callable(found):
        return Entry(found)
    raise TypeError(f"{found!r} is neither a function nor a class")
