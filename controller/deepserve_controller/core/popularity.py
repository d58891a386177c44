"""Popularity: uses of names over time, of which half is forgotten in every half-life."""

from __future__ import annotations

HALF_LIFE_S = 600.0
NUM_NAMES = 1000


class Popularity:
    """Remembers the names used last."""

    def __init__(self) -> None:
        self._uses: dict[str, tuple[float, float]] = {}

    def note(self, name: str, now_s: float) -> None:
        self.learn(name, self.of(name, now_s) + 1.0, now_s)

    def learn(self, name: str, uses: float, now_s: float) -> None:
        self._uses.pop(name, None)
        self._uses[name] = uses, now_s
        if len(self._uses) > NUM_NAMES:
            del self._uses[next(iter(self._uses))]

    def of(self, name: str, now_s: float) -> float:
        uses, at_s = self._uses.get(name, (0.0, now_s))
        return float(uses * 0.5 ** ((now_s - at_s) / HALF_LIFE_S))
