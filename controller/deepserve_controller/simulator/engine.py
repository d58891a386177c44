"""Simulation: the agenda, and the loop that drives the very same cores as the service."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from deepserve_controller.core.actions import Action, WakeAt
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.events import Event, TimerFired


@dataclass(frozen=True, slots=True)
class Occurrence:
    """`event` happens at `at_s`, unless `needs_pod` names a pod that is gone by then."""

    at_s: float
    event: Event
    needs_pod: str = ""
    turn: Callable[[float], Iterable[Occurrence]] | None = None
    """Something that happens inside the world: the cores do not hear of it, but of what it leads to."""


class Simulation:
    """Gives events to the cores in the order of their times, equal times in the order in which they were set.

    `consequences` says what an action leads to; `is_alive` whether a pod still is. Invariants of both cores are
    checked after every event, or after one in `check_every`. `digest` names the whole history: equal seeds must give
    equal digests.
    """

    def __init__(
        self,
        cores: Cores,
        consequences: Callable[[Action, float], Iterable[Occurrence]],
        before: Callable[[Event, float], None],
        is_alive: Callable[[str], bool],
        on_step: Callable[[Cores], None],
        check_every: int = 1,
    ) -> None:
        self._cores = cores
        self._consequences = consequences
        self._before = before
        self._is_alive = is_alive
        self._on_step = on_step
        self._check_every = check_every
        self._agenda: list[tuple[float, int, Occurrence]] = []
        self._number = 0
        self._history = hashlib.sha256()
        self.num_events = 0
        self.now_s = 0.0

    @property
    def digest(self) -> str:
        return self._history.hexdigest()[:16]

    def add(self, occurrences: Iterable[Occurrence]) -> None:
        for occurrence in occurrences:
            self._number += 1
            heapq.heappush(self._agenda, (occurrence.at_s, self._number, occurrence))

    def run(self, until_s: float) -> None:
        """Until nothing is left or simulated time passes `until_s`. AssertionError where an invariant breaks."""
        while self._agenda and self._agenda[0][0] <= until_s:
            self.now_s, _, occurrence = heapq.heappop(self._agenda)
            if not occurrence.needs_pod or self._is_alive(occurrence.needs_pod):
                if occurrence.turn is not None:
                    self.add(occurrence.turn(self.now_s))
                else:
                    self._step(occurrence.event)
        self.now_s = until_s

    def _step(self, event: Event) -> None:
        self.num_events += 1
        self._history.update(f"{self.now_s!r} {event!r}\n".encode())
        self._before(event, self.now_s)
        actions = self._cores.handle(event, self.now_s)
        if self.num_events % self._check_every == 0:
            self._cores.check_invariants()
        self._on_step(self._cores)
        for action in actions:
            self._history.update(f"{action!r}\n".encode())
            if isinstance(action, WakeAt):
                self.add([Occurrence(action.at_s, TimerFired(action.key))])
            else:
                self.add(self._consequences(action, self.now_s))
