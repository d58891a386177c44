"""What a pod calls: the user's function or class, found by a CodeRef."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

HOOK_ATTRIBUTE = "__deepserve_hook__"
"""Set on the functions of a class by the decorators: `enter`, `method` or `exit`."""
SNAP_ATTRIBUTE = "__deepserve_snap__"
"""Set on `enter(snap=True)` functions."""

BATCHING_ATTRIBUTE = "__deepserve_batching__"
"""On what `batched` made: its Batching."""


class Batching(msgspec.Struct, frozen=True):
    """How a pod gathers items. `target`: the user's function of lists. (deepserve.batched says the rest.)"""

    target: Callable[..., Any]
    max_batch_size: int
    wait_s: float
    size_fn: Callable[..., float] | None = None

    @staticmethod
    def of(call: Any) -> Batching | None:
        """Of a function, or of a method bound to its instance; None where it is not batched."""
        batching: Batching | None = getattr(call, BATCHING_ATTRIBUTE, None)
        if batching is None or (instance := getattr(call, "_instance", None)) is None:
            return batching
        return msgspec.structs.replace(batching, target=partial(batching.target, instance))


class Entry(msgspec.Struct, frozen=True, weakref=True):
    """`target` is the undecorated function, or the undecorated class.

    A `bundle` CodeRef resolves to a module attribute whose `__deepserve_entry__` is the Entry (a plain
    function without one is its own target); a `pickle` bundle is one dump of `dict[qualname, Entry]`.
    """

    target: Callable[..., Any]
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    never_on: tuple[type[BaseException], ...] = ()

    def may_retry(self, error: BaseException) -> bool:
        """Retries(on=..., never_on=...), judged where the exception's class exists."""
        return isinstance(error, self.retry_on) and not isinstance(error, self.never_on)


def entry_of(found: Any) -> Entry:
    """The Entry behind a resolved name. Raises TypeError for what cannot be called."""
    entry = getattr(found, "__deepserve_entry__", None)
    if isinstance(entry, Entry):
        return entry
    if callable(found):
        return Entry(found)
    raise TypeError(f"{found!r} is neither a function nor a class")


def hook_names(target: type, kind: str, snap: bool | None = None) -> list[str]:
    """Of a class, in the order of their definition, base classes first; `snap` asks for `enter` hooks of one sort.

    What a subclass overrides keeps its place; whether it is for the snapshot says the definition decorated last.
    """
    is_snap: dict[str, bool] = {}
    for base in reversed(target.__mro__):
        for name, member in vars(base).items():
            if getattr(member, HOOK_ATTRIBUTE, "") == kind:
                is_snap[name] = getattr(member, SNAP_ATTRIBUTE, False)
    return [name for name, found in is_snap.items() if snap is None or found is snap]
