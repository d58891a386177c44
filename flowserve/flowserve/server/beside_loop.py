"""Work that reads much: in a thread, so that it does not hold up the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

T = TypeVar("T")

MUCH = 1 << 14
"""Characters, bytes or tokens that take milliseconds to read."""


async def beside_loop(size: int, work: Callable[..., T], *arguments: object) -> T:
    """What `work` returns or raises. size: of what it reads; little is read at once, where it stands."""
    if size < MUCH:
        return work(*arguments)
    return await anyio.to_thread.run_sync(work, *arguments)
