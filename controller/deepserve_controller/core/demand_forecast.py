"""DemandForecast: when models that nobody asks now are likely to be asked again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

NUM_GAPS = 20
LEAST_GAP_S = 2.0
"""Shorter ones are within one use."""
ROUNDING_S = 1e-6
"""An alarm that was set for the moment from which a gap counts must find that it does."""


class DemandForecast:
    """From how long each was left alone before (the idle times of Serverless in the Wild, USENIX ATC'20, section 4.2,
    as a list of the latest in place of a histogram: models are few, and asked seldom when this matters)."""

    def __init__(self) -> None:
        self._gaps_s: dict[str, deque[float]] = {}
        self.used_s: dict[str, float] = {}
        """When each was last in use."""

    def note_use(self, name: str, now_s: float, was_in_use: bool = False) -> None:
        """It is asked. was_in_use: it was waited for, or worked, until now, so that no pause has ended."""
        gap_s = now_s - self.used_s.get(name, now_s)
        if gap_s >= LEAST_GAP_S and not was_in_use:
            self._gaps_s.setdefault(name, deque(maxlen=NUM_GAPS)).append(gap_s)
        self.used_s[name] = now_s

    def gaps_s(self, name: str) -> tuple[float, ...]:
        """The latest, the oldest first."""
        return tuple(self._gaps_s.get(name, ()))

    def learn(self, name: str, gaps_s: Iterable[float], used_s: float) -> None:
        """What another forecast knew."""
        self._gaps_s[name] = deque(gaps_s, maxlen=NUM_GAPS)
        self.used_s[name] = used_s

    def chance(self, name: str, now_s: float, ahead_s: float) -> float:
        """That it is asked within `ahead_s`, 0 to 1, as it has not been yet: of the gaps that were longer than this one
        is by now, how many ended so soon. One more is counted that did not, so that one gap alone says little."""
        idle_s = now_s - self.used_s.get(name, now_s)
        longer = [gap_s for gap_s in self._gaps_s.get(name, ()) if gap_s > idle_s]
        return sum(gap_s <= idle_s + ahead_s + ROUNDING_S for gap_s in longer) / (len(longer) + 1)

    def next_look_s(self, name: str, now_s: float, ahead_s: float) -> float | None:
        """When the chance rises next, if nobody asks until then; None where it does not."""
        used_s = self.used_s.get(name, now_s)
        times_s = [used_s + gap_s - ahead_s for gap_s in self._gaps_s.get(name, ())]
        return min((at_s for at_s in times_s if at_s > now_s), default=None)

    def forget(self, name: str) -> None:
        self._gaps_s.pop(name, None)
        self.used_s.pop(name, None)
