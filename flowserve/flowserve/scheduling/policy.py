"""Whose turn it is: the order in which sequences get tokens and blocks. The last in order is preempted first."""

from __future__ import annotations

from typing import Protocol

from ..sequence import Sequence


class OrderPolicy(Protocol):
    """A total order over sequences that does not change while a sequence lives."""

    def rank(self, sequence: Sequence) -> tuple[int, ...]:
        """Smaller runs earlier. Must end in `sequence.arrival`, so that ranks are never equal."""
        ...


class FirstComeFirstServed:
    """Oldest first. Nobody starves: the oldest can take the blocks of all others and ends after finitely many steps."""

    def rank(self, sequence: Sequence) -> tuple[int, ...]:
        return (sequence.arrival,)
