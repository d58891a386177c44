"""Seats: which sequences wait for a seat, and which have one."""

from __future__ import annotations

from bisect import insort

from ..sequence import Sequence, SequenceStatus
from .order import BY_RANK


class Seats:
    """Each sequence of the scheduler stands in the list that its status names; only here is either changed."""

    def __init__(self) -> None:
        self.waiting: list[Sequence] = []  # both sorted by rank
        self.running: list[Sequence] = []
        self.populating: list[Sequence] = []
        """They have seats and blocks, and wait for what fills these."""

    @property
    def num_seated(self) -> int:
        return len(self.running) + len(self.populating)

    @property
    def num_waiting(self) -> int:
        """For a seat, or for their blocks to be filled."""
        return len(self.waiting) + len(self.populating)

    @property
    def seated(self) -> list[Sequence]:
        return self.running + self.populating

    @property
    def sequences(self) -> list[Sequence]:
        """All of them, by rank."""
        return sorted(self.waiting + self.seated, key=BY_RANK)

    def wait(self, sequence: Sequence) -> None:
        sequence.status = SequenceStatus.WAITING
        insort(self.waiting, sequence, key=BY_RANK)

    def populate(self, sequence: Sequence) -> None:
        sequence.status = SequenceStatus.POPULATING
        self.populating.append(sequence)

    def run(self, sequence: Sequence) -> None:
        sequence.status = SequenceStatus.RUNNING
        insort(self.running, sequence, key=BY_RANK)

    def leave(self, sequence: Sequence) -> None:
        """For another list, or for good."""
        match sequence.status:
            case SequenceStatus.WAITING:
                self.waiting.remove(sequence)
            case SequenceStatus.RUNNING:
                self.running.remove(sequence)
            case SequenceStatus.POPULATING:
                self.populating.remove(sequence)

    def check_invariants(self) -> None:
        for group, status in ((self.waiting, SequenceStatus.WAITING), (self.running, SequenceStatus.RUNNING)):
            assert all(sequence.status is status for sequence in group)
            assert group == sorted(group, key=BY_RANK)
        assert all(sequence.status is SequenceStatus.POPULATING for sequence in self.populating)
