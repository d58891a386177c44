"""Many timers behind one `WakeAt`: what a core wants to do later."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from deepserve_controller.core.actions import Action, WakeAt

NEVER_S = float("inf")


class Alarm:
    """One thing to do at `at_s`, about `subject`. A cancelled alarm has an empty `kind`."""

    __slots__ = ("at_s", "kind", "subject")

    def __init__(self, at_s: float, kind: str, subject: Any) -> None:
        self.at_s = at_s
        self.kind = kind
        self.subject = subject


class Alarms:
    """Sets and cancels alarms in O(log n) and asks the driver for a timer only when the earliest one moves forward.

    A warm call sets its time limit and cancels it again; no timer of the driver is touched by that, because some
    earlier limit is nearly always armed already. Cancelled alarms stay in the heap until they come up or outnumber
    the live ones.
    """

    def __init__(self, owner: str, out: list[Action]) -> None:
        self._owner = owner
        self._out = out
        self._heap: list[tuple[float, int, Alarm]] = []
        self._number = 0
        self._num_live = 0
        self._armed_s = NEVER_S

    def __len__(self) -> int:
        return self._num_live

    def set(self, at_s: float, kind: str, subject: Any) -> Alarm:
        alarm = Alarm(at_s, kind, subject)
        self._number += 1
        heapq.heappush(self._heap, (at_s, self._number, alarm))
        self._num_live += 1
        if at_s < self._armed_s:
            self._arm(at_s)
        return alarm

    def cancel(self, alarm: Alarm) -> None:
        """Forget `alarm`; does nothing where it went off or was cancelled before."""
        if not alarm.kind:
            return
        alarm.kind = ""
        alarm.subject = None
        self._num_live -= 1
        if len(self._heap) > 2 * self._num_live + 64:
            self._heap = [entry for entry in self._heap if entry[2].kind]
            heapq.heapify(self._heap)

    def due(self, key: tuple[Any, ...], now_s: float) -> Iterator[tuple[str, Any]]:
        """(kind, subject) of each alarm due at `now_s`, earliest first, if the timer `key` is the latest one.

        What is done about one may cancel the next, and an alarm that it sets for this instant still comes up.
        """
        if key != (self._owner, self._armed_s):
            return
        while self._heap and (self._heap[0][0] <= now_s or not self._heap[0][2].kind):
            alarm = heapq.heappop(self._heap)[2]
            if alarm.kind:
                kind, alarm.kind = alarm.kind, ""
                self._num_live -= 1
                yield kind, alarm.subject
        self._armed_s = NEVER_S
        if self._heap:
            self._arm(self._heap[0][0])

    def check_invariants(self) -> None:
        live = sum(1 for entry in self._heap if entry[2].kind)
        assert live == self._num_live, f"{self._owner}: {live} live alarms, counted {self._num_live}"
        if live:
            first_s = min(entry[0] for entry in self._heap if entry[2].kind)
            assert self._armed_s <= first_s, f"{self._owner}: the alarm at {first_s} has no timer"

    def _arm(self, at_s: float) -> None:
        self._armed_s = at_s
        self._out.append(WakeAt(at_s, (self._owner, at_s)))
