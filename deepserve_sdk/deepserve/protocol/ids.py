"""One type for each kind of identifier, so that one cannot be passed for another."""

from __future__ import annotations

from typing import NewType

RequestId = NewType("RequestId", str)
"""One call from outside, as the user quotes it: `rq-5f3a1c-7`."""
JobId = NewType("JobId", str)
TaskId = NewType("TaskId", str)
PodId = NewType("PodId", str)
FunctionId = NewType("FunctionId", str)
"""Content of a function's specification and code: equal content, equal id, one pool of pods."""
LinkId = NewType("LinkId", str)
"""One connection to the controller, of a client or of a pod."""


class IdAllocator:
    """Counts up within one controller; passed in, so that a simulated run repeats exactly."""

    def __init__(self, suffix: str = "") -> None:
        self._next: dict[str, int] = {}
        self._suffix = suffix

    def new(self, prefix: str) -> str:
        number = self._next.get(prefix, 0) + 1
        self._next[prefix] = number
        return f"{prefix}-{self._suffix}{number}"
