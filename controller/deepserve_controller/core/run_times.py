"""RunTimes: how long runs of a function take, as its pods report."""

from __future__ import annotations

WEIGHT = 0.2
"""Of the latest run, in an exponentially weighted mean: some ten runs forget what the first, slow one took."""


class RunTimes:
    """By method: those of a class have little in common."""

    def __init__(self) -> None:
        self._means_s: dict[str, float] = {}

    def mean_s(self, method: str) -> float:
        """0 before the first run was reported."""
        return self._means_s.get(method, 0.0)

    def learn(self, method: str, total_s: float, count: int = 1) -> None:
        """`count` runs took `total_s` together."""
        if count <= 0:
            return
        latest_s = max(total_s / count, 1e-7)  # a clock that does not move is not "unknown"
        mean_s = self._means_s.get(method)
        if mean_s is not None:
            latest_s += (mean_s - latest_s) * (1.0 - WEIGHT) ** count
        self._means_s[method] = latest_s
