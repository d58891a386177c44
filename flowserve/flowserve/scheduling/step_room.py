"""StepRoom: what a step that others wait for may still be given. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MIN_PROMPT_TOKENS = 16
"""A step has room for so many, whatever they take: on many processors fewer take as long."""


@dataclass(slots=True)
class StepRoom:
    """Asked and told in order of turn. Who is of a later priority than one of the step's prompts is left out.

    left_s: of the time that the step should take.  prompts_left_s: what its prompts may take all the same, so that it
    is worth its fixed part.  prompt_token_s, decode_s: what a token of either kind takes.
    decoding: sequences that get one token, by priority, and have not been asked for.
    may_leave_out: False where all are taken along.
    """

    left_s: float
    prompts_left_s: float
    prompt_token_s: float
    decode_s: float
    decoding: Counter[int]
    may_leave_out: bool = True
    has_left_out: bool = field(default=False, init=False)
    _num_prompt_tokens: int = field(default=0, init=False)
    _earliest: int | None = field(default=None, init=False)

    def for_prompt(self, priority: int) -> int:
        """Tokens for a prompt, beside one for each that decodes and is of no later priority."""
        if self._is_left_out(priority):
            return 0
        num_reserved = sum(number for other, number in self.decoding.items() if other <= priority)
        left_s = max(self.left_s - num_reserved * self.decode_s, self.prompts_left_s)
        return max(int(left_s / self.prompt_token_s), MIN_PROMPT_TOKENS - self._num_prompt_tokens, 0)

    def add_prompt(self, priority: int, num_tokens: int) -> None:
        if num_tokens > 0:
            self._num_prompt_tokens += num_tokens
            self.left_s -= num_tokens * self.prompt_token_s
            self.prompts_left_s -= num_tokens * self.prompt_token_s
            self._earliest = priority if self._earliest is None else min(self._earliest, priority)

    def add_decode(self, priority: int, num_drafts: int = 0) -> bool:
        """Whether the step takes it along."""
        self.forget_decode(priority)
        if self._is_left_out(priority):
            return False
        self.left_s -= self.decode_s + num_drafts * self.prompt_token_s
        return True

    def forget_decode(self, priority: int) -> None:
        """It was asked for, or is preempted."""
        self.decoding[priority] -= 1

    def _is_left_out(self, priority: int) -> bool:
        is_left_out = self.may_leave_out and self._earliest is not None and priority > self._earliest
        self.has_left_out |= is_left_out
        return is_left_out
