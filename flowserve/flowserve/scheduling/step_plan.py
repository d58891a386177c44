"""StepPlan: what a step has been given so far, and what may still be put into it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .batch import ScheduledSequence


@dataclass(slots=True)
class StepPlan:
    """A step being planned. prefill_budget: tokens left beside one for each decoding sequence not yet seen.

    draft_budget: as much, less one while there is a prompt, which drafts must not starve.
    admits: whether waiting sequences may still start; the first that finds no room ends that.
    """

    prefill_budget: int
    draft_budget: int
    entries: list[ScheduledSequence] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)
    admits: bool = True

    def spend(self, num_tokens: int) -> None:
        self.prefill_budget -= num_tokens
        self.draft_budget -= num_tokens
