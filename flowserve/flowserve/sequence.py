"""Sequence: one request inside the engine, as counts of tokens. Pure: no text, no tensors, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class SequenceStatus(Enum):
    WAITING = "waiting"
    POPULATING = "populating"  # waits for blocks that are fetched from a lower tier
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens known and tokens whose keys and values are (being) computed. Only the scheduler changes it.

    Prefill and decode are the same thing: there are tokens whose KV is not computed yet. A step that reaches the last
    token samples the next one; until its value is back it counts as pending, so the step after can be planned from
    lengths alone (DeepServe 2.6 b).

    token_ids: prompt and output so far.  arrival: order of adding, unique in the engine's life.
    priority: lower comes earlier.  rank: place in the order of turns, to sort by.  num_overtakes: later arrivals that
    the policy let go before it.
    cache_salt: the tenant, whose preserved KV alone is used.
    num_scheduled: leading tokens whose KV is computed or in flight.  num_pending: sampled, value not back yet.
    num_drafts: guessed tokens in flight behind the last known one; until it is known how many were right, the
    sequence cannot be planned further.
    num_cached_tokens: leading prompt tokens whose KV was there when it began; what it finds of its own after a
    preemption does not count.
    keeps_kv: what is computed of it is preserved for others.
    next_prompt_logit: the first prompt token whose logits are still wanted (`num_prompt_tokens` - 1: none).
    """

    sequence_id: str
    token_ids: list[int]
    num_prompt_tokens: int
    max_tokens: int
    arrival: int
    priority: int = 0
    cache_salt: str | None = None
    rank: int = 0
    num_overtakes: int = 0
    status: SequenceStatus = SequenceStatus.WAITING
    num_scheduled: int = 0
    num_pending: int = 0
    num_drafts: int = 0
    num_cached_tokens: int = 0
    next_prompt_logit: int = -1
    keeps_kv: bool = True
    num_preemptions: int = 0
    finish_reason: str | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) + self.num_pending

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_tokens_limit(self) -> int:
        return self.num_prompt_tokens + self.max_tokens

    @property
    def num_unscheduled(self) -> int:
        """Tokens to compute next, 0 or less for none; the last token the sequence may have is never an input."""
        # Asked for every token: written out, without the properties above.
        num_tokens = len(self.token_ids) + self.num_pending
        num_inputs = self.num_prompt_tokens + self.max_tokens - 1
        return (num_tokens if num_tokens < num_inputs else num_inputs) - self.num_scheduled

    @property
    def wants_prompt_logits(self) -> bool:
        return 0 <= self.next_prompt_logit < self.num_prompt_tokens - 1

    def advance(self, num_tokens: int, num_drafts: int) -> tuple[int, bool]:
        """Its next tokens are scheduled, and so many drafts behind them.

        Returns for how many of them the logits of the prompt are wanted, and whether the last one's next is sampled.
        """
        end = self.num_scheduled + num_tokens
        num_prompt_logits = 0
        if self.next_prompt_logit >= 0 and self.wants_prompt_logits:
            num_prompt_logits = max(0, min(end, self.num_prompt_tokens - 1) - self.next_prompt_logit)
            self.next_prompt_logit += num_prompt_logits
        samples = end == self.num_tokens
        self.num_scheduled += num_tokens + num_drafts
        if samples:
            self.num_pending += 1
            self.num_drafts += num_drafts
        return num_prompt_logits, samples

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED
