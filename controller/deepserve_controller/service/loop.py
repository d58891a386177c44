"""Drives the two pure cores in real time: an event goes in, its actions are carried out before the next one."""

from __future__ import annotations

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from deepserve_controller.core import actions, events
from deepserve_controller.core.actions import Action
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.events import Event
from deepserve_controller.service.reactor import running_reactor


class CoreLoop:
    """Gives events to the cores and carries out what comes back.

    Everything happens inside the caller's callback: a frame that came in leaves as frames before the loop
    looks at its sockets again.
    """

    def __init__(self, cores: Cores) -> None:
        self.cores = cores
        self._inbox: deque[Event] = deque()
        self._is_handling = False
        self._carriers: dict[type[Action], Callable[[Any], None]] = {actions.WakeAt: self._wake_at}

    def carry(self, kind: type[Action], carrier: Callable[[Any], None]) -> None:
        """From now on `carrier` carries out actions of this kind."""
        self._carriers[kind] = carrier

    def give(self, event: Event) -> None:
        """Takes a fact. Given from within an action's carrier, it is handled after the current event."""
        self._inbox.append(event)
        if self._is_handling:
            return
        self._is_handling = True
        try:
            while self._inbox:
                for action in self.cores.actions(self._inbox.popleft(), time.monotonic()):
                    self._carry_out(action)
        finally:
            self._is_handling = False

    def _carry_out(self, action: Action) -> None:
        try:
            self._carriers[type(action)](action)
        except Exception:
            # The cores count on every action: one that fails must not take the others with it.
            print(f"deepserve: {type(action).__name__} failed", file=sys.stderr)
            traceback.print_exc(file=sys.stderr)

    def _wake_at(self, action: actions.WakeAt) -> None:
        running_reactor().call_at(action.at_s, partial(self.give, events.TimerFired(action.key)))
