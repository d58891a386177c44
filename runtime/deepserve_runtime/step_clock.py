"""How long each step of a start took."""

from __future__ import annotations

import time


class StepClock:
    def __init__(self) -> None:
        self.steps_ms: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def mark(self, step: str) -> None:
        """The time since the last mark was spent on `step`."""
        now_s = time.perf_counter()
        self.steps_ms[step] = (now_s - self._last_s) * 1e3
        self._last_s = now_s
