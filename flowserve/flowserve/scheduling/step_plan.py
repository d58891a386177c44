"""StepPlan: what a step has been given so far, and what may still be put into it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..sequence import Sequence
from .batch import ScheduledSequence
from .step_room import StepRoom


@dataclass(slots=True)
class StepPlan:
    """A step being planned. prefill_budget: tokens left beside one for each decoding sequence not yet seen.

    draft_budget: as much, less one while there is a prompt, which drafts must not starve.
    max_prompt_logits: see SchedulerConfig.  room: what others that wait for the step leave; None = all of the budget.
    admits: whether waiting sequences may still start; the first that finds no room ends that.
    """

    prefill_budget: int
    draft_budget: int
    max_prompt_logits: int
    room: StepRoom | None = None
    entries: list[ScheduledSequence] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)
    admits: bool = True

    def chunk(self, sequence: Sequence, num_tokens: int) -> int:
        """How many of a sequence's next tokens, of its prompt, the step may take."""
        chunk = min(num_tokens, self.prefill_budget)
        if sequence.wants_prompt_logits:
            chunk = min(chunk, self.max_prompt_logits)
        return chunk if self.room is None else min(chunk, self.room.for_prompt(sequence.priority))

    def add_prompt(self, sequence: Sequence, num_tokens: int) -> None:
        self.prefill_budget -= num_tokens
        self.draft_budget -= num_tokens
        if self.room is not None:
            self.room.add_prompt(sequence.priority, num_tokens)

    def add_decode(self, sequence: Sequence, num_drafts: int) -> bool:
        """Whether there is room for its token, for which one of the budget is kept, and these drafts."""
        if self.room is not None and not self.room.add_decode(sequence.priority, num_drafts):
            return False
        self.prefill_budget -= num_drafts
        self.draft_budget -= num_drafts
        return True

    def forget_decode(self, sequence: Sequence) -> None:
        """It is preempted: its token is free."""
        self.prefill_budget += 1
        self.draft_budget += 1
        if self.room is not None:
            self.room.forget_decode(sequence.priority)
