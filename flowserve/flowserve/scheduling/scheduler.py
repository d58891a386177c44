"""Scheduler: continuous batching with chunked prefill in one path, preemption by recomputation.

Prefill and decode are not told apart: each sequence has tokens whose KV is not computed, and gets as many of them per
step as the token budget allows. `schedule` needs lengths only, never token values, so it may be called for step n+1
before `complete` of step n (DeepServe 2.6 b; vLLM's asynchronous scheduler does the same with placeholders).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InvalidConfigError, PromptTooLongError, UnknownSequenceError
from ..rtc.cache import RelationalTensorCache
from ..sequence import Sequence, SequenceStatus
from .batch import Batch, ScheduledSequence, TokenResult
from .policy import FirstComeFirstServed, OrderPolicy


@dataclass(frozen=True)
class SchedulerConfig:
    """max_num_sequences: running at once.  max_num_batched_tokens: tokens of one step, the prefill chunk.

    max_prompt_logits: the chunk of a prompt whose log-probabilities are wanted: logits are as wide as the vocabulary.
    """

    max_num_sequences: int = 32
    max_num_batched_tokens: int = 512
    max_prompt_logits: int = 64

    def __post_init__(self) -> None:
        if self.max_num_sequences < 1 or self.max_num_batched_tokens < 1:
            raise InvalidConfigError("max_num_sequences and max_num_batched_tokens must be at least 1")


class Scheduler:
    """Owns its sequences and their block tables; nobody else changes either."""

    def __init__(
        self, config: SchedulerConfig, cache: RelationalTensorCache, policy: OrderPolicy | None = None
    ) -> None:
        self.config = config
        self.cache = cache
        self.policy = policy or FirstComeFirstServed()
        self.num_preemptions = 0
        self.prefix_hit_tokens = 0
        self._sequences: dict[str, Sequence] = {}
        self._waiting: list[Sequence] = []  # both sorted by rank
        self._running: list[Sequence] = []
        self._num_arrivals = 0

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(
        self, sequence_id: str, prompt_ids: list[int], max_tokens: int, wants_prompt_logits: bool = False
    ) -> Sequence:
        """Queue a sequence of at least one prompt token and one token to generate.

        wants_prompt_logits: logits of all prompt tokens are wanted, so all are computed, also where KV is preserved.

        Raises UnknownSequenceError for an id in use, PromptTooLongError when all blocks together could not hold it.
        """
        if sequence_id in self._sequences:
            raise UnknownSequenceError(f"sequence {sequence_id!r} is in the engine already")
        capacity = self.cache.num_blocks * self.cache.block_size
        if len(prompt_ids) + max_tokens - 1 > capacity:
            raise PromptTooLongError(
                f"prompt of {len(prompt_ids)} tokens and max_tokens {max_tokens} need more than"
                f" the {capacity} tokens of the KV cache"
            )
        sequence = Sequence(sequence_id, list(prompt_ids), len(prompt_ids), max_tokens, self._num_arrivals)
        if wants_prompt_logits:
            sequence.next_prompt_logit = 0
        self._num_arrivals += 1
        self._sequences[sequence_id] = sequence
        insort(self._waiting, sequence, key=self.policy.rank)
        return sequence

    def abort(self, sequence_id: str) -> Sequence:
        """Forget a sequence and free its blocks; results of steps in flight are dropped when they come."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            raise UnknownSequenceError(f"no sequence {sequence_id!r} in the engine")
        self._finish(sequence, "abort")
        return sequence

    def schedule(self, num_drafts: Mapping[str, int] | None = None) -> Batch:
        """Plan the next step: running sequences first, then as many waiting ones as fit. Empty when nothing can run.

        num_drafts: tokens that the worker guesses behind the last one of a sequence; as many are verified as fit.
        """
        entries: list[ScheduledSequence] = []
        preempted: list[str] = []
        budget = self.config.max_num_batched_tokens
        for index, sequence in enumerate(list(self._running)):
            num_tokens = self._chunk(sequence, sequence.num_unscheduled, budget)
            if sequence.status is not SequenceStatus.RUNNING or num_tokens < 1:
                continue
            drafts = 0
            if num_drafts and (wanted := num_drafts.get(sequence.sequence_id)):
                num_behind = max(0, len(self._running) - index - 1)
                drafts = self._room_for_drafts(sequence, min(wanted, budget - 1 - num_behind))
            if self._make_room(sequence, num_tokens + drafts, preempted):
                entries.append(self._advance(sequence, num_tokens, drafts))
                budget -= num_tokens + drafts
        while budget and not preempted and (admitted := self._admit(budget)):
            sequence, num_tokens = admitted
            entries.append(self._advance(sequence, num_tokens))
            budget -= num_tokens
        return Batch(tuple(entries), tuple(preempted))

    def complete(self, batch: Batch, results: Mapping[str, TokenResult]) -> list[Sequence]:
        """Take the results of a step, in the order the steps were scheduled; returns the sequences that ended.

        `results` has one for every entry that samples, except for sequences aborted meanwhile.
        """
        finished = []
        for entry in batch.sequences:
            sequence = self._sequences.get(entry.sequence_id)
            if sequence is None or sequence.arrival != entry.arrival:
                continue  # ended or aborted while this step was in flight
            is_same_life = entry.num_preemptions == sequence.num_preemptions
            num_wrong = 0
            if entry.samples:
                result = results[entry.sequence_id]
                sequence.token_ids += result.token_ids
                sequence.num_pending -= 1
                sequence.num_drafts -= entry.num_drafts
                num_wrong = 1 + entry.num_drafts - len(result.token_ids)
                if is_same_life:
                    sequence.num_scheduled -= num_wrong  # their KV is overwritten by that of the right tokens
                reason = result.finish_reason
                if reason is None and sequence.num_output_tokens >= sequence.max_tokens:
                    reason = "length"
            else:
                reason = None
            if is_same_life:
                self.cache.publish(sequence.sequence_id, sequence.token_ids, entry.end - num_wrong)
            if reason is not None:
                self._finish(sequence, reason)
                finished.append(sequence)
        return finished

    def check_invariants(self) -> None:
        """Raise AssertionError where the state contradicts itself. For tests and the simulator."""
        self.cache.check_invariants()
        listed = self._waiting + self._running
        assert len(listed) == len(self._sequences) and set(map(id, listed)) == set(map(id, self._sequences.values()))
        assert len(self._running) <= self.config.max_num_sequences
        for group, status in ((self._waiting, SequenceStatus.WAITING), (self._running, SequenceStatus.RUNNING)):
            assert all(sequence.status is status for sequence in group)
            ranks = [self.policy.rank(sequence) for sequence in group]
            assert ranks == sorted(set(ranks))
        for sequence in self._sequences.values():
            table = self.cache.block_table(sequence.sequence_id)
            assert 0 <= sequence.num_scheduled <= sequence.num_tokens + sequence.num_drafts
            assert sequence.num_drafts == 0 or sequence.num_pending == 1
            assert sequence.num_scheduled <= len(table) * self.cache.block_size
            assert sequence.num_tokens <= sequence.num_tokens_limit
            assert sequence.status is SequenceStatus.RUNNING or (not table and sequence.num_scheduled == 0)
        tables = {sequence_id for sequence_id in self.cache.sequence_ids}
        assert tables <= {sequence.sequence_id for sequence in self._running}

    def _chunk(self, sequence: Sequence, num_tokens: int, budget: int) -> int:
        """How many of a sequence's next tokens one step may take."""
        limit = min(budget, self.config.max_prompt_logits) if sequence.wants_prompt_logits else budget
        return min(num_tokens, limit)

    def _room_for_drafts(self, sequence: Sequence, wanted: int) -> int:
        """How many drafts the step can verify: behind a known last token, and nobody loses blocks for a guess."""
        if sequence.num_pending or sequence.num_unscheduled != 1:
            return 0
        num_drafts = min(wanted, sequence.num_tokens_limit - sequence.num_tokens - 1)
        table = self.cache.block_table(sequence.sequence_id)
        if self.cache.num_free_blocks <= len(self._running) + num_drafts // self.cache.block_size:
            num_drafts = min(num_drafts, len(table) * self.cache.block_size - sequence.num_tokens)
        return max(num_drafts, 0)

    def _make_room(self, sequence: Sequence, num_tokens: int, preempted: list[str]) -> bool:
        """Give a running sequence blocks for its next tokens, taking those of the last in order if need be."""
        while not self.cache.alloc_blocks(sequence.sequence_id, sequence.num_scheduled + num_tokens):
            victim = self._running[-1]
            self._preempt(victim)
            preempted.append(victim.sequence_id)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Back to waiting without blocks; what was generated stays and is computed again as part of the prompt."""
        self._running.remove(sequence)
        self.cache.free(sequence.sequence_id)
        sequence.num_scheduled = 0
        sequence.num_preemptions += 1
        sequence.status = SequenceStatus.WAITING
        self.num_preemptions += 1
        insort(self._waiting, sequence, key=self.policy.rank)

    def _admit(self, budget: int) -> tuple[Sequence, int] | None:
        """Start the first waiting sequence, or None when it does not fit now (those behind it wait too)."""
        if not self._waiting or len(self._running) >= self.config.max_num_sequences:
            return None
        sequence = self._waiting[0]
        if sequence.num_drafts:
            return None  # preempted while they are in flight: its length is not known yet
        match = self.cache.match_by_prefix_token([] if sequence.wants_prompt_logits else sequence.token_ids)
        num_tokens = self._chunk(sequence, sequence.num_tokens - match.num_tokens, budget)
        # One block per running sequence stays free, or the newcomer would be preempted a few steps later.
        if not self.cache.fits(match, match.num_tokens + num_tokens, num_reserved=len(self._running)):
            return None
        self._waiting.pop(0)
        self.cache.adopt(sequence.sequence_id, match)
        allocated = self.cache.alloc_blocks(sequence.sequence_id, match.num_tokens + num_tokens)
        assert allocated
        sequence.num_scheduled = match.num_tokens
        self.prefix_hit_tokens += match.num_tokens
        sequence.status = SequenceStatus.RUNNING
        insort(self._running, sequence, key=self.policy.rank)
        return sequence, num_tokens

    def _advance(self, sequence: Sequence, num_tokens: int, num_drafts: int = 0) -> ScheduledSequence:
        """Count the tokens as scheduled and, where they reach the end, the next one as pending."""
        start = sequence.num_scheduled
        end = start + num_tokens
        num_prompt_logits = 0
        if sequence.wants_prompt_logits:
            upto = min(end, sequence.num_prompt_tokens - 1)
            num_prompt_logits = max(0, upto - sequence.next_prompt_logit)
            sequence.next_prompt_logit += num_prompt_logits
        samples = end == sequence.num_tokens
        sequence.num_scheduled += num_tokens + num_drafts
        if samples:
            sequence.num_pending += 1
            sequence.num_drafts += num_drafts
        return ScheduledSequence(
            sequence_id=sequence.sequence_id,
            start=start,
            num_tokens=num_tokens + num_drafts,
            block_table=tuple(self.cache.block_table(sequence.sequence_id)),
            num_logits=num_prompt_logits + (1 + num_drafts if samples else 0),
            arrival=sequence.arrival,
            num_preemptions=sequence.num_preemptions,
            num_prompt_logits=num_prompt_logits,
            num_drafts=num_drafts,
        )

    def _finish(self, sequence: Sequence, reason: str) -> None:
        if sequence.status is SequenceStatus.RUNNING:
            self._running.remove(sequence)
            self.cache.free(sequence.sequence_id)
        else:
            self._waiting.remove(sequence)
        del self._sequences[sequence.sequence_id]
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason
