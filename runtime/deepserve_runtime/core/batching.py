"""BatchPlan: which of a pod's waiting inputs run together, and when.

Pure: facts go in, orders come out. The executor performs the orders and reports back with further facts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from deepserve_runtime.core.lifecycle import TaskKey

# --- events: facts ---------------------------------------------------------------------------------


class InputArrived(msgspec.Struct, frozen=True):
    """`queue`: inputs of one queue may run together, `max_size` of them at most; the first waits `wait_s` for more."""

    key: TaskKey
    queue: str
    max_size: int = 1
    wait_s: float = 0.0


class InputLeft(msgspec.Struct, frozen=True):
    """It was cancelled."""

    key: TaskKey


class RunEnded(msgspec.Struct, frozen=True):
    pass


class ClockRang(msgspec.Struct, frozen=True):
    pass


Event = InputArrived | InputLeft | RunEnded | ClockRang

# --- actions: orders -------------------------------------------------------------------------------


class StartRun(msgspec.Struct, frozen=True):
    """Of these inputs together; RunEnded comes back."""

    queue: str
    keys: tuple[TaskKey, ...]


class DropInput(msgspec.Struct, frozen=True):
    """It left while it was waiting: it never runs."""

    key: TaskKey


class RingAt(msgspec.Struct, frozen=True):
    """ClockRang at this time at the latest; an earlier order is void."""

    at_s: float


Action = StartRun | DropInput | RingAt


class BatchQueue:
    """Inputs that may run together, in the order of their arrival."""

    def __init__(self, max_size: int, wait_s: float) -> None:
        self.max_size = max_size
        self.wait_s = wait_s
        self.arrived_s: OrderedDict[TaskKey, float] = OrderedDict()

    @property
    def due_s(self) -> float:
        """When its next run may start; for what is not empty."""
        first_s = next(iter(self.arrived_s.values()))
        return first_s if len(self.arrived_s) >= self.max_size else first_s + self.wait_s

    def take(self) -> tuple[TaskKey, ...]:
        num_taken = min(len(self.arrived_s), self.max_size)
        return tuple(self.arrived_s.popitem(last=False)[0] for _ in range(num_taken))


class BatchPlan:
    """Changed only through `handle`. At most `max_runs` runs at a time, a batch being one.

    A run starts when its batch is full, or when its first input has waited as long as its queue says, counted from
    that input's arrival (so what waited for a run to end goes at once). Of several that may, the one that may longest.
    """

    def __init__(self, max_runs: int) -> None:
        self.max_runs = max_runs
        self.num_running = 0
        self.queues: dict[str, BatchQueue] = {}
        self._queue_of: dict[TaskKey, str] = {}
        self._rings_at_s: float | None = None
        self._handlers: dict[type, Callable[[Any, float], list[Action]]] = {
            InputArrived: self._on_arrived,
            InputLeft: self._on_left,
            RunEnded: self._on_ended,
            ClockRang: self._on_rang,
        }

    def handle(self, event: Event, now_s: float) -> list[Action]:
        actions = self._handlers[type(event)](event, now_s)
        while (queue := self._next_queue()) is not None and self.queues[queue].due_s <= now_s:
            keys = self.queues[queue].take()
            for key in keys:
                del self._queue_of[key]
            self.num_running += 1
            actions.append(StartRun(queue, keys))
        return actions + self._ring()

    def _next_queue(self) -> str | None:
        """The one whose run is due first, if there is room for a run."""
        if self.num_running >= self.max_runs:
            return None
        filled = [name for name, queue in self.queues.items() if queue.arrived_s]
        return min(filled, key=lambda name: self.queues[name].due_s, default=None)

    def _ring(self) -> list[Action]:
        queue = self._next_queue()
        at_s = self.queues[queue].due_s if queue is not None else None
        if at_s is None or at_s == self._rings_at_s:
            return []
        self._rings_at_s = at_s
        return [RingAt(at_s)]

    def _on_arrived(self, event: InputArrived, now_s: float) -> list[Action]:
        queue = self.queues.get(event.queue)
        if queue is None:
            queue = self.queues[event.queue] = BatchQueue(event.max_size, event.wait_s)
        queue.arrived_s[event.key] = now_s
        self._queue_of[event.key] = event.queue
        return []

    def _on_left(self, event: InputLeft, now_s: float) -> list[Action]:
        name = self._queue_of.pop(event.key, None)
        if name is None:  # it runs
            return []
        del self.queues[name].arrived_s[event.key]
        return [DropInput(event.key)]

    def _on_ended(self, event: RunEnded, now_s: float) -> list[Action]:
        self.num_running -= 1
        return []

    def _on_rang(self, event: ClockRang, now_s: float) -> list[Action]:
        self._rings_at_s = None
        return []

    def check_invariants(self) -> None:
        assert 0 <= self.num_running <= self.max_runs, self.num_running
        waiting = {key: name for name, queue in self.queues.items() for key in queue.arrived_s}
        assert waiting == self._queue_of
        if self.num_running < self.max_runs:
            for name, queue in self.queues.items():
                assert len(queue.arrived_s) < queue.max_size, f"{name}: a full batch waits beside room for a run"
                assert not queue.arrived_s or self._rings_at_s is not None, f"{name}: nobody wakes it"
