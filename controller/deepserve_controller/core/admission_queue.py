"""AdmissionQueue: which requests of a model may be at its pods, and in whose turn they run there.

Two rules. While there is room in the window, the `FairQueue` says who is next. Where there is none, a key that has less
at the pods than its equal share, and owes little, is let in all the same: beyond the window, with a turn before those
that have more, so that its request takes the seat of one of theirs. So nothing is kept free for anybody, and nobody
waits until another's long answers end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from deepserve_controller.core.fair_queue import FairQueue

T = TypeVar("T")


MAX_DEBT_QUANTA = 8
"""Who owes more than this is not let in beyond the window: a few prompts in a row are no flood, huge ones may be."""


class Window(NamedTuple):
    """How many requests may be at the pods: `open` to whoever is next, `most` with those who are below their share."""

    open: int
    most: int


class Admitted(NamedTuple, Generic[T]):
    """`turn`: the lower, the earlier at the pods; 0 for who has as much there as anybody else."""

    key: str
    item: T
    turn: int


class AdmissionQueue(Generic[T]):
    """`push`, then what `admit` returns may go; `leave` for each of those once it is over. Costs are in tokens."""

    def __init__(self, quantum: int) -> None:
        self._queue = FairQueue[T](quantum)
        self._max_debt = MAX_DEBT_QUANTA * quantum
        self._in_flight: Counter[str] = Counter()
        self._num_admitted = 0
        self.num_waiting = self._queue.num_waiting
        """Of a key."""
        self.remove = self._queue.remove

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def num_admitted(self) -> int:
        return self._num_admitted

    def push(self, key: str, item: T, cost: int, priority: int = 0) -> None:
        """priority: see FairQueue."""
        self._queue.push(key, item, cost, priority)

    def admit(self, window: Window) -> list[Admitted[T]]:
        admitted = []
        while len(self._queue) and self._num_admitted < window.open:
            admitted.append(self._admitted(*self._queue.pop()))
        while len(self._queue) and self._num_admitted < window.most:
            key = self._below_share(window.open)
            if key is None:
                break
            admitted.append(self._admitted(key, self._queue.pop_of(key)))
        return admitted

    def leave(self, key: str, estimated: int, actual: int) -> None:
        """A request that was admitted is over."""
        self._num_admitted -= 1
        self._in_flight[key] -= 1
        if not self._in_flight[key]:
            del self._in_flight[key]
        self._queue.settle(key, estimated, actual)

    def check_invariants(self) -> None:
        self._queue.check_invariants()
        assert self._num_admitted == self._in_flight.total()
        assert all(number > 0 for number in self._in_flight.values())

    # --- inside ---

    def _admitted(self, key: str, item: T) -> Admitted[T]:
        turn = turn_of(self._in_flight[key], max(self._in_flight.values(), default=0))
        self._in_flight[key] += 1
        self._num_admitted += 1
        return Admitted(key, item, turn)

    def _below_share(self, num_slots: int) -> str | None:
        """Whose request is let in beyond the window: of those who have least at the pods the one whose turn is next."""
        waiting = {key: self._queue.num_waiting(key) for key in self._queue.keys}
        wanted = Counter(self._in_flight) + Counter(waiting)
        share = equal_share(wanted.values(), num_slots)
        below = [
            key for key in waiting
            if self._in_flight[key] < share and self._queue.debt(key) <= self._max_debt
        ]  # fmt: skip
        return min(below, key=lambda key: self._in_flight[key], default=None)


def equal_share(wanted: Iterable[int], num_slots: int) -> int:
    """The most that each may have of `num_slots`, where what some do not want goes to the others (max-min fairness).

    At least 1.
    """
    amounts = sorted(wanted)
    for number, amount in enumerate(amounts):
        share = num_slots // (len(amounts) - number)
        if amount > share:
            return max(1, share)
        num_slots -= amount
    return max(1, amounts[-1] if amounts else 0)


def turn_of(own: int, most: int) -> int:
    """Of a key's request, where the key has `own` at the pods and another one `most`.

    A step for each doubling: who has hardly less than another takes nobody's seat.
    """
    return min(0, own.bit_length() - most.bit_length())
