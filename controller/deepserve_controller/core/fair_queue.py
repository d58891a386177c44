"""FairQueue: whose waiting request is next, so that each key gets an equal share of the work, whatever it asks for.

Deficit round robin (Shreedhar and Varghese 1995): keys with something waiting take turns; each turn adds a quantum to
the key's deficit, and its requests go while the deficit covers their cost. What a request costs is known for certain
only when it is over: `settle` corrects the key's account then, so that a wrong estimate wins nobody anything. What
a key owes it pays off with the turns that it would have had, whether it waits or not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import KeysView
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

MAX_DEBT_QUANTA = 64
"""An account is never further down: a key that took far more than it was thought to is not shut out for long."""


class Waiting(NamedTuple, Generic[T]):
    item: T
    cost: int
    priority: int


class FairQueue(Generic[T]):
    """`quantum` and costs are in tokens. Fairness is among keys that wait: when nobody does, accounts are forgotten."""

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._waiting: dict[str, deque[Waiting[T]]] = {}
        """By key, in the order of their turns: the first one's turn it is."""
        self._deficits: dict[str, int] = {}
        self._given = 0.0
        """Tokens that a key which has waited all the time was given in its turns."""
        self._given_before: dict[str, float] = {}
        """Of keys that owe and do not wait: `_given` when their deficit was noted."""
        self._has_quantum = False
        """The first key got its quantum for this turn."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def keys(self) -> KeysView[str]:
        """Those that wait, in the order of their turns."""
        return self._waiting.keys()

    def num_waiting(self, key: str) -> int:
        return len(self._waiting.get(key, ()))

    def push(self, key: str, item: T, cost: int, priority: int = 0) -> None:
        """priority: among the key's own requests; lower comes earlier, equals in order of arrival."""
        if key not in self._waiting:
            self._deficits[key] = self._account(key)
            self._given_before.pop(key, None)
        queue = self._waiting.setdefault(key, deque())
        place = len(queue)
        while place and queue[place - 1].priority > priority:
            place -= 1
        queue.insert(place, Waiting(item, max(1, cost), priority))

    def pop(self) -> tuple[str, T]:
        """The next request and its key. Raises IndexError where nothing waits."""
        if not self._waiting:
            raise IndexError("nothing waits")
        self._skip_turns()
        while True:
            key, queue = next(iter(self._waiting.items()))
            if not self._has_quantum:
                self._deficits[key] += self._quantum
                self._given += self._quantum / len(self._waiting)
                self._has_quantum = True
            if queue[0].cost <= self._deficits[key]:
                return key, self.pop_of(key)
            self._end_turn(key)

    def pop_of(self, key: str) -> T:
        """This key's next request, out of turn: what it costs is owed."""
        queue = self._waiting[key]
        taken = queue.popleft()
        self._note(key, self._deficits[key] - taken.cost)
        if not queue:
            self._leave(key)
        return taken.item

    def debt(self, key: str) -> int:
        """Tokens that it has had beyond its turns."""
        return max(0, -self._account(key))

    def remove(self, key: str, item: T) -> bool:
        """Whoever waited has left. False where it was taken already."""
        queue = self._waiting.get(key, ())
        found = next((each for each in queue if each.item is item), None)
        if found is None:
            return False
        self._waiting[key].remove(found)
        if not self._waiting[key]:
            self._leave(key)
        return True

    def settle(self, key: str, estimated: int, actual: int) -> None:
        """A request of this key is over and cost `actual`, not `estimated`."""
        if self._waiting:
            self._note(key, self._account(key) + estimated - actual)

    def check_invariants(self) -> None:
        assert all(self._waiting.values()), "a key without requests has a turn"
        assert set(self._waiting) <= set(self._deficits)
        assert self._waiting or not self._deficits, "accounts are kept though nobody waits"
        assert self._given_before.keys() == self._deficits.keys() - self._waiting.keys()
        least = -MAX_DEBT_QUANTA * self._quantum
        assert all(deficit >= least for deficit in self._deficits.values())

    # --- inside ---

    def _account(self, key: str) -> int:
        """What it may take, or owes."""
        deficit = self._deficits.get(key, 0)
        if (before := self._given_before.get(key)) is not None:
            return min(0, deficit + int(self._given - before))
        return deficit

    def _note(self, key: str, account: int) -> None:
        """Whoever does not wait saves nothing up."""
        account = max(-MAX_DEBT_QUANTA * self._quantum, account)
        if key in self._waiting:
            self._deficits[key] = account
        elif account < 0:
            self._deficits[key], self._given_before[key] = account, self._given
        else:
            self._deficits.pop(key, None)
            self._given_before.pop(key, None)

    def _skip_turns(self) -> None:
        """Give everybody at once the quanta of those rounds in which nobody could have taken anything."""
        missing = (queue[0].cost - self._deficits[key] for key, queue in self._waiting.items())
        rounds = -(-min(missing) // self._quantum) - 1
        if rounds > 0:
            self._given += rounds * self._quantum
            for key in self._waiting:
                self._deficits[key] += rounds * self._quantum

    def _end_turn(self, key: str) -> None:
        self._waiting[key] = self._waiting.pop(key)
        self._has_quantum = False

    def _leave(self, key: str) -> None:
        """Nothing of it waits: what it did not use is lost, what it owes is not."""
        if next(iter(self._waiting)) == key:
            self._has_quantum = False
        del self._waiting[key]
        self._note(key, self._deficits[key])
        if not self._waiting:
            self._deficits.clear()
            self._given_before.clear()
            self._given = 0.0
