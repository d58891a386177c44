"""Identifiers that are counted. (A function's id is its content's hash: `specs.function_id`.)"""

from __future__ import annotations


class IdAllocator:
    """Counts up within one controller; passed in, so that a simulated run repeats exactly."""

    def __init__(self, suffix: str = "") -> None:
        self._next: dict[str, int] = {}
        self._suffix = suffix

    def new(self, prefix: str) -> str:
        number = self._next.get(prefix, 0) + 1
        self._next[prefix] = number
        return f"{prefix}-{self._suffix}{number}"
