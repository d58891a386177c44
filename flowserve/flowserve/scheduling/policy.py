"""Whose turn it is: where a new sequence comes in the order in which sequences get tokens and blocks."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol


class InOrder(Protocol):
    """What has a place in the order: a `Sequence`, or the simulator's."""

    priority: int
    rank: int
    num_overtakes: int


class OrderPolicy(Protocol):
    """Decides once per sequence, when it arrives; two sequences never change places afterwards."""

    def place(self, order: Seq[InOrder], newcomer: InOrder) -> int:
        """Index in `order` (first turn first, all sequences that wait or run) before which the newcomer is put."""
        ...


class BoundedPriority:
    """The lower `priority`, the earlier, as in vLLM; equals in order of arrival; nobody is overtaken without end.

    A newcomer goes past those behind whose priority is a higher number, up to the first that was overtaken
    `max_overtakes` times already. From that follows that every sequence ends, whatever arrives. Let m be the sequences
    before it when it arrived and k <= max_overtakes those that overtook it. Whoever is first cannot be preempted and
    gets at least one token in every step, or in every d-th while drafts of it are verified, where d is the steps in
    flight. So it ends within (T + 2) d steps, T being the longest prompt plus max_tokens among these sequences. The
    first place changes hands at most m + 2 k times before it is the sequence's own to the end, so that it ends within
    (m + 2 k + 1) (T + 2) d steps of its arrival, those not counted in which it waits for blocks from a lower tier.
    """

    def __init__(self, max_overtakes: int = 1000) -> None:
        self.max_overtakes = max_overtakes

    def place(self, order: Seq[InOrder], newcomer: InOrder) -> int:
        index = len(order)
        while index and self._may_pass(order[index - 1], newcomer):
            index -= 1
        return index

    def _may_pass(self, sequence: InOrder, newcomer: InOrder) -> bool:
        return newcomer.priority < sequence.priority and sequence.num_overtakes < self.max_overtakes
