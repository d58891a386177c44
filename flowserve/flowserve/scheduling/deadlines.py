"""Deadlines: which sequences end next by the clock. The time is always the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from ..sequence import Sequence


class Deadlines:
    """A heap of times over the scheduler's living sequences (`alive`, by id); what ended before its time is skipped."""

    def __init__(self, alive: Mapping[str, Sequence]) -> None:
        self._alive = alive
        self._heap: list[tuple[float, int, str]] = []  # time, arrival, id; holds ended sequences for a while too

    def __len__(self) -> int:
        return len(self._heap)

    def note(self, deadline_s: float, sequence: Sequence) -> None:
        if len(self._heap) > 2 * len(self._alive) + 100:
            self._heap = [entry for entry in self._heap if self._sequence_of(entry) is not None]
            heapify(self._heap)
        heappush(self._heap, (deadline_s, sequence.arrival, sequence.sequence_id))

    def pop_due(self, now_s: float) -> list[Sequence]:
        """The living sequences whose deadline has come, the earliest first; they are forgotten here."""
        due = []
        while self._heap and self._heap[0][0] <= now_s:
            if (sequence := self._sequence_of(heappop(self._heap))) is not None:
                due.append(sequence)
        return due

    def _sequence_of(self, entry: tuple[float, int, str]) -> Sequence | None:
        """None where it has ended, even if another sequence has its id now."""
        _, arrival, sequence_id = entry
        sequence = self._alive.get(sequence_id)
        return sequence if sequence is not None and sequence.arrival == arrival else None
