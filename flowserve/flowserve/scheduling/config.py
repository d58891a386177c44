"""SchedulerConfig: the bounds of what runs at once and of what one step computes."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidConfigError


@dataclass(frozen=True)
class SchedulerConfig:
    """max_num_sequences: running at once.  max_num_batched_tokens: tokens of one step, the prefill chunk.

    max_prompt_logits: the chunk of a prompt whose log-probabilities are wanted: logits are as wide as the vocabulary.
    target_step_s: what a step with prompts should take while others are there (see StepPace); 0 = however long.
    """

    max_num_sequences: int = 32
    max_num_batched_tokens: int = 512
    max_prompt_logits: int = 64
    target_step_s: float = 0.0

    def __post_init__(self) -> None:
        if self.max_num_sequences < 1 or self.max_num_batched_tokens < 1:
            raise InvalidConfigError("max_num_sequences and max_num_batched_tokens must be at least 1")

    @property
    def num_seats(self) -> int:
        """Sequences that run at once: no more than a step has tokens, so that each of them can have one."""
        return min(self.max_num_sequences, self.max_num_batched_tokens)
