"""TurnOrder: all sequences that wait or run, first turn first, each with a number to sort by."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from operator import attrgetter
from typing import Generic, TypeVar

from .policy import InOrder, OrderPolicy

S = TypeVar("S", bound=InOrder)

BY_RANK = attrgetter("rank")
_GAP = 1 << 40  # between neighbours at the end; newcomers in between halve it


class TurnOrder(Generic[S]):
    """A list that the policy inserts into. `Sequence.rank` rises along it, so parts of it can be kept sorted too."""

    def __init__(self, policy: OrderPolicy) -> None:
        self._policy = policy
        self._sequences: list[S] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[S]:
        return iter(self._sequences)

    def insert(self, sequence: S) -> None:
        """Give a newcomer its place and rank, and count it with those that it overtakes."""
        order = self._sequences
        index = self._policy.place(order, sequence)
        for overtaken in order[index:]:
            overtaken.num_overtakes += 1
        before = order[index - 1].rank if index else None
        after = order[index].rank if index < len(order) else None
        order.insert(index, sequence)
        if before is None:
            sequence.rank = 0 if after is None else after - _GAP
        elif after is None:
            sequence.rank = before + _GAP
        elif after - before > 1:
            sequence.rank = (before + after) // 2
        else:
            for position, each in enumerate(order):  # no number left between the two; the order stays what it is
                each.rank = position * _GAP

    def remove(self, sequence: S) -> None:
        index = bisect_left(self._sequences, sequence.rank, key=BY_RANK)
        assert self._sequences[index] is sequence
        del self._sequences[index]

    def check_invariants(self) -> None:
        ranks = [sequence.rank for sequence in self._sequences]
        assert ranks == sorted(set(ranks)), "two turns are equal or swapped"
