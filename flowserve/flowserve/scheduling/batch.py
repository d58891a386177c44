"""Batch: what one step computes, in plain integers, so that it can be sent to every worker as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class ScheduledSequence(NamedTuple):  # made for every token: a frozen dataclass takes three times as long
    """Compute tokens [start, start + num_tokens) of a sequence.

    block_table: KV blocks of the sequence from token 0 on, enough for start + num_tokens. It is the cache's own list,
    which may grow while the step runs; a block in it never changes (see RelationalTensorCache).
    num_logits: how many of the last of these tokens need logits, in this order: `num_prompt_logits` for the
    log-probabilities of the prompt, then, where the tokens reach the sequence's last (`samples`), one for the next
    token and one for each draft.
    num_drafts: the last of these tokens are so many guesses of the worker, verified by this step.
    arrival, num_preemptions: which life of the sequence this is; results for an earlier one are dropped.
    """

    sequence_id: str
    start: int
    num_tokens: int
    block_table: Sequence[int]
    num_logits: int
    arrival: int
    num_preemptions: int
    num_prompt_logits: int = 0
    num_drafts: int = 0

    @property
    def end(self) -> int:
        return self.start + self.num_tokens

    @property
    def samples(self) -> bool:
        """Whether the step yields the sequence's next token."""
        return self.num_logits > self.num_prompt_logits


@dataclass(frozen=True, slots=True)
class Batch:
    """One step.

    preempted: they lost their blocks while it was planned; what no lower tier keeps of them is computed again later.
    copies: KV blocks (from, to) that the worker copies, in order, before it computes anything.
    """

    sequences: tuple[ScheduledSequence, ...]
    preempted: tuple[str, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(entry.num_tokens for entry in self.sequences)

    @property
    def num_prompt_tokens_and_decodes(self) -> tuple[int, int]:
        """Tokens of sequences that get several at once (drafts count as well), and sequences that get one."""
        prompts = [entry.num_tokens for entry in self.sequences if entry.num_tokens > 1]
        return sum(prompts), len(self.sequences) - len(prompts)

    def __bool__(self) -> bool:
        return bool(self.sequences)


class TokenResult(NamedTuple):
    """The new tokens of one sequence: one, or more where drafts were right.

    finish_reason: what the reader of the tokens decided at the last of them ("stop", "abort").
    """

    token_ids: tuple[int, ...]
    finish_reason: str | None = None
