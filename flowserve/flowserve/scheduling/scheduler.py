"""Scheduler: continuous batching with chunked prefill in one path, preemption by recomputation or by swapping.

Each sequence has tokens whose KV is not computed. One that misses a single token (it decodes) gets it in every step;
what is left of the step's token budget goes to the prompts in order of turn, in chunks. `schedule` needs lengths only,
never token values, so it may be called for step n+1 before `complete` of step n (DeepServe 2.6 b; vLLM's asynchronous
scheduler does the same with placeholders).

A preempted sequence gives up its blocks and starts again from what is preserved of them. Where the cache has a tier
below the device they move there when others need the room, and come back instead of being computed again.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import PromptTooLongError, SequenceExistsError, UnknownSequenceError
from ..rtc.cache import Match, RelationalTensorCache
from ..rtc.populates import PopulateState
from ..sequence import Sequence, SequenceStatus
from .batch import Batch, ScheduledSequence, TokenResult
from .config import SchedulerConfig
from .deadlines import Deadlines
from .order import TurnOrder
from .policy import BoundedPriority, OrderPolicy
from .seats import Seats
from .step_pace import StepPace
from .step_plan import StepPlan


class Scheduler:
    """Owns its sequences and their block tables; nobody else changes either.

    One order (`TurnOrder`) decides everything: who starts, who gets the prompt tokens of a step, who is preempted. A
    waiting sequence that comes before running ones takes the seat and the blocks of the last of them if it must.
    """

    def __init__(
        self, config: SchedulerConfig, cache: RelationalTensorCache, policy: OrderPolicy | None = None
    ) -> None:
        self.config = config
        self.cache = cache
        self.num_preemptions = 0
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = 0
        self.num_draft_tokens = 0
        self.num_accepted_tokens = 0
        self._sequences: dict[str, Sequence] = {}
        self._order = TurnOrder[Sequence](policy or BoundedPriority())
        self._seats = Seats()
        self._waiting, self._running = self._seats.waiting, self._seats.running  # looked at here, changed there
        self._deadlines = Deadlines(self._sequences)
        self._num_arrivals = 0
        self._pace = StepPace(config.target_step_s)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return self._seats.num_waiting

    def add(
        self,
        sequence_id: str,
        prompt_ids: list[int],
        max_tokens: int,
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        cache_salt: str | None = None,
        wants_prompt_logits: bool = False,
        fork_of: ScheduledSequence | None = None,
        output_ids: list[int] | None = None,
        keeps_kv: bool = True,
    ) -> Sequence:
        """Queue a sequence of at least one prompt token and one token to generate.

        priority: lower comes earlier.  deadline_s: when `expire` ends it, in the caller's clock; None = never.
        cache_salt: the tenant, whose preserved KV alone is used.
        wants_prompt_logits: logits of all prompt tokens are wanted, so all are computed, also where KV is preserved.
        fork_of: what a step that is done computed of a sequence with the same prompt, whose blocks it shares if both
        can run now; the last one too, until one of them writes into it. Else, and where that sequence has lost those
        blocks meanwhile, it starts like any other, from what is preserved of the prompt.
        output_ids: what it has put out elsewhere, fewer than max_tokens: it goes on like one that was preempted.
        keeps_kv: what is computed of it is preserved for others.
        Raises UnknownSequenceError for an id in use, PromptTooLongError when all blocks together could not hold it.
        """
        if sequence_id in self._sequences:
            raise SequenceExistsError(f"the id {sequence_id!r} is in use: its sequence is in the engine already")
        capacity = self.cache.num_blocks * self.cache.block_size
        if len(prompt_ids) + max_tokens - 1 > capacity:
            raise PromptTooLongError(
                f"prompt of {len(prompt_ids)} tokens and max_tokens {max_tokens} need more than"
                f" the {capacity} tokens of the KV cache"
            )
        tokens = [*prompt_ids, *(output_ids or ())]
        sequence = Sequence(sequence_id, tokens, len(prompt_ids), max_tokens, self._num_arrivals, priority)
        sequence.cache_salt, sequence.keeps_kv = cache_salt, keeps_kv
        if wants_prompt_logits:
            sequence.next_prompt_logit = 0
        self._num_arrivals += 1
        self._sequences[sequence_id] = sequence
        self._order.insert(sequence)
        self._seats.wait(sequence)
        if deadline_s is not None:
            self._deadlines.note(deadline_s, sequence)
        if fork_of is not None:
            self._fork(fork_of, sequence)
        return sequence

    def abort(self, sequence_id: str) -> Sequence:
        """Forget a sequence and free its blocks; results of steps in flight are dropped when they come."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            raise UnknownSequenceError(f"no sequence {sequence_id!r} in the engine")
        self._finish(sequence, "abort")
        return sequence

    def expire(self, now_s: float) -> list[Sequence]:
        """End the sequences whose deadline has come, waiting or running, as `abort` does, and return them."""
        expired = self._deadlines.pop_due(now_s)
        for sequence in expired:
            self._finish(sequence, "deadline")
        return expired

    @property
    def has_deadlines(self) -> bool:
        """Whether the time matters: `expire` has something to look at."""
        return len(self._deadlines) > 0

    def schedule(self, num_drafts: Mapping[str, int] | None = None) -> Batch:
        """Plan the next step, in order of turn. Empty when nothing can run.

        num_drafts: tokens that the worker guesses behind the last one of a sequence; as many are verified as fit.
        """
        self._welcome_populated()
        running = list(self._running)
        num_unscheduled = [sequence.num_unscheduled for sequence in running]
        step = self._begin_step(running, num_unscheduled)
        for sequence, num_tokens in zip(running, num_unscheduled, strict=True):
            while self._waiting and self._waiting[0].rank < sequence.rank and step.admits:
                self._admit(step)
            if num_tokens > 0 and sequence.status is SequenceStatus.RUNNING:
                drafts = num_drafts.get(sequence.sequence_id, 0) if num_drafts else 0
                self._continue(sequence, num_tokens, drafts, step)
        while self._waiting and step.admits:
            self._admit(step)
        self._pace.planned(step.room)
        return Batch(tuple(step.entries), tuple(step.preempted), tuple(self.cache.tables.take_copies()))

    def took(self, batch: Batch, seconds: float) -> None:
        """What computing a step took, told before it is complete."""
        if all(map(self._living, batch.sequences)):  # the worker leaves others out
            self._pace.note(*batch.num_prompt_tokens_and_decodes, seconds)

    def complete(self, batch: Batch, results: Mapping[str, TokenResult]) -> list[Sequence]:
        """Take the results of a step, in the order the steps were scheduled; returns the sequences that ended.

        `results` has one for every entry that samples, except for sequences aborted meanwhile.
        """
        finished = []
        for entry in batch.sequences:
            sequence = self._living(entry)
            if sequence is None:
                continue
            reason = None
            num_computed = entry.end
            if entry.samples:
                result = results[entry.sequence_id]
                num_computed -= self._take_tokens(sequence, entry, result)
                reason = result.finish_reason
                if reason is None and sequence.num_output_tokens >= sequence.max_tokens:
                    reason = "length"
            if sequence.keeps_kv and entry.num_preemptions == sequence.num_preemptions:
                block_size = self.cache.block_size
                if num_computed // block_size > entry.start // block_size:
                    self.cache.tables.computed(sequence.sequence_id, sequence.token_ids, num_computed)
            if reason is not None:
                self._finish(sequence, reason)
                finished.append(sequence)
        return finished

    def check_invariants(self) -> None:
        """Raise AssertionError where the state contradicts itself. For tests and the simulator."""
        self.cache.check_invariants()
        self._order.check_invariants()
        self._seats.check_invariants()
        listed = self._seats.sequences
        assert len(listed) == len(self._sequences) and all(self._sequences[s.sequence_id] is s for s in listed)
        assert listed == list(self._order)
        assert self._seats.num_seated <= self.config.num_seats
        for sequence in self._sequences.values():
            table = self.cache.tables.of(sequence.sequence_id)
            assert 0 <= sequence.num_scheduled <= sequence.num_tokens + sequence.num_drafts
            assert sequence.num_drafts == 0 or sequence.num_pending == 1
            assert sequence.num_scheduled <= len(table) * self.cache.block_size
            assert sequence.num_tokens <= sequence.num_tokens_limit
            assert sequence.status is SequenceStatus.RUNNING or sequence.num_scheduled == 0
            assert sequence.status is not SequenceStatus.WAITING or not table
        tables = set(self.cache.tables.sequence_ids)
        assert tables <= {sequence.sequence_id for sequence in self._seats.seated}

    def _fork(self, done: ScheduledSequence, child: Sequence) -> None:
        """Share what is computed for certain: a step in flight leaves out a parent that ends before it begins."""
        parent = self._living(done)
        if parent is None or done.num_preemptions != parent.num_preemptions:
            return
        num_shared = min(done.end - done.num_drafts, child.num_prompt_tokens - 1)  # its last is computed, to sample
        has_room = self._seats.num_seated < min(self.config.num_seats, self.cache.num_free_blocks)
        if not (parent.status is SequenceStatus.RUNNING and num_shared and self._waiting == [child] and has_room):
            return
        if self.cache.tables.fork(parent.sequence_id, child.sequence_id, num_shared):
            self._seats.leave(child)
            self._run(child, num_shared)

    def _welcome_populated(self) -> None:
        """Let those run whose blocks have arrived, or are known not to come."""
        for sequence in list(self._seats.populating):
            status = self.cache.query_populate(sequence.sequence_id)
            if status.state is not PopulateState.PENDING:
                self._seats.leave(sequence)
                self._run(sequence, status.num_tokens)

    def _run(self, sequence: Sequence, num_computed: int) -> None:
        """The sequence has blocks in which the KV of its first tokens lies: it runs from now on."""
        if sequence.num_preemptions == 0:
            sequence.num_cached_tokens = min(num_computed, sequence.num_prompt_tokens)
            self.prefix_query_tokens += sequence.num_prompt_tokens
            self.prefix_hit_tokens += sequence.num_cached_tokens
        sequence.num_scheduled = num_computed
        self._seats.run(sequence)

    def _take_tokens(self, sequence: Sequence, entry: ScheduledSequence, result: TokenResult) -> int:
        """Add the sampled tokens; returns how many drafts were wrong, whose KV that of the right tokens overwrites."""
        sequence.token_ids += result.token_ids
        sequence.num_pending -= 1
        if not entry.num_drafts:
            return 0
        sequence.num_drafts -= entry.num_drafts
        self.num_draft_tokens += entry.num_drafts
        self.num_accepted_tokens += len(result.token_ids) - 1
        num_wrong = 1 + entry.num_drafts - len(result.token_ids)
        if entry.num_preemptions == sequence.num_preemptions:
            sequence.num_scheduled -= num_wrong
        return num_wrong

    def _living(self, entry: ScheduledSequence) -> Sequence | None:
        """None where it ended or was aborted, even if another sequence has its id now."""
        sequence = self._sequences.get(entry.sequence_id)
        return sequence if sequence is not None and sequence.arrival == entry.arrival else None

    def _begin_step(self, running: list[Sequence], num_unscheduled: list[int]) -> StepPlan:
        budget = self.config.max_num_batched_tokens - num_unscheduled.count(1)
        has_prompts = bool(self._waiting) or max(num_unscheduled, default=0) > 1
        room = None
        if has_prompts and len(self._sequences) > 1:
            counts = zip(running, num_unscheduled, strict=True)
            room = self._pace.room(sequence.priority for sequence, number in counts if number == 1)
        return StepPlan(budget, budget - has_prompts, self.config.max_prompt_logits, room)

    def _continue(self, sequence: Sequence, num_tokens: int, wanted_drafts: int, step: StepPlan) -> None:
        """Give a running sequence of `num_tokens` unscheduled tokens those of the step."""
        num_drafts = 0
        if num_tokens > 1:
            num_tokens = step.chunk(sequence, num_tokens)
            step.add_prompt(sequence, num_tokens)
        else:
            if wanted_drafts:
                num_drafts = self._room_for_drafts(sequence, min(wanted_drafts, step.draft_budget))
            if not step.add_decode(sequence, num_drafts):
                return
        if num_tokens > 0 and self._make_room(sequence, num_tokens + num_drafts, step):
            step.entries.append(self._advance(sequence, num_tokens, num_drafts))

    def _room_for_drafts(self, sequence: Sequence, wanted: int) -> int:
        """How many drafts the step can verify: behind a known last token, and nobody loses blocks for a guess."""
        if sequence.num_pending or sequence.num_unscheduled != 1:
            return 0
        num_drafts = min(wanted, sequence.num_tokens_limit - sequence.num_tokens - 1)
        table = self.cache.tables.of(sequence.sequence_id)
        if self.cache.num_free_blocks <= len(self._running) + num_drafts // self.cache.block_size:
            num_drafts = min(num_drafts, len(table) * self.cache.block_size - sequence.num_tokens)
        return max(num_drafts, 0)

    def _make_room(self, sequence: Sequence, num_tokens: int, step: StepPlan) -> bool:
        """Give a running sequence blocks for its next tokens, taking those of the last in order if need be."""
        start = sequence.num_scheduled
        while not self.cache.alloc_blocks(sequence.sequence_id, start + num_tokens, write_from=start):
            step.admits = False  # who starts now would soon be preempted
            victim = self._running[-1]
            if victim is self._running[0] and self.cache.contexts.unpin():
                continue  # nobody else has any: what contexts have is for those who wait
            self._preempt(victim, step)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence, step: StepPlan) -> None:
        """Back to waiting without blocks; what was generated stays and is computed again as part of the prompt."""
        if sequence.num_unscheduled == 1:
            step.forget_decode(sequence)  # that token of the step was kept for it
        self._seats.leave(sequence)
        self.cache.free(sequence.sequence_id)
        sequence.num_scheduled = 0
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self._seats.wait(sequence)
        step.preempted.append(sequence.sequence_id)

    def _admit(self, step: StepPlan) -> None:
        """Start the first waiting sequence, or close the step for it and those behind it."""
        sequence = self._waiting[0]
        step.admits = self._take_seat(sequence, step) and step.chunk(sequence, 1) > 0 and self._start(sequence, step)

    def _take_seat(self, sequence: Sequence, step: StepPlan) -> bool:
        """Whether there is a seat, if need be that of the last in order."""
        return self._seats.num_seated < self.config.num_seats or self._displace(sequence, step)

    def _displace(self, sequence: Sequence, step: StepPlan) -> bool:
        """Preempt the last running sequence if it comes after a waiting one."""
        if not self._running or self._running[-1].rank < sequence.rank:
            return False
        self._preempt(self._running[-1], step)
        return True

    def _start(self, sequence: Sequence, step: StepPlan) -> bool:
        """Give the first waiting sequence blocks and its first tokens; False when there are no blocks for it now."""
        if sequence.num_drafts or sequence.num_tokens == sequence.num_tokens_limit:
            return False  # preempted while they, or its last token, are in flight: how it goes on is not known yet
        match = self.cache.match_by_prefix_token(
            [] if sequence.wants_prompt_logits else sequence.token_ids, sequence.cache_salt
        )
        num_found = match.num_tokens + len(match.below) * self.cache.block_size
        num_tokens = step.chunk(sequence, sequence.num_tokens - num_found)
        # One block per running sequence stays free, or the newcomer would be preempted a few steps later.
        while not self.cache.fits(match, num_found + num_tokens, num_reserved=self._seats.num_seated):
            if not self._displace(sequence, step) and not (self._seats.num_seated == 0 and self.cache.contexts.unpin()):
                return False
        self._seats.leave(sequence)
        if match.must_wait:
            self._populate(sequence, match)
            return True
        self.cache.adopt(sequence.sequence_id, match, sequence.cache_salt)
        allocated = self.cache.alloc_blocks(sequence.sequence_id, num_found + num_tokens)
        assert allocated
        self._run(sequence, num_found)
        step.add_prompt(sequence, num_tokens)
        step.entries.append(self._advance(sequence, num_tokens))
        return True

    def _populate(self, sequence: Sequence, match: Match) -> None:
        """Have the sequence's blocks fetched from below; the steps go on without it meanwhile."""
        populates = self.cache.populate(sequence.sequence_id, match, salt=sequence.cache_salt)
        assert populates
        self._seats.populate(sequence)

    def _advance(self, sequence: Sequence, num_tokens: int, num_drafts: int = 0) -> ScheduledSequence:
        """Count the tokens as scheduled and, where they reach the end, the next one as pending."""
        start = sequence.num_scheduled
        num_prompt_logits, samples = sequence.advance(num_tokens, num_drafts)
        return ScheduledSequence(
            sequence.sequence_id,
            start,
            num_tokens + num_drafts,
            self.cache.tables.of(sequence.sequence_id),
            num_prompt_logits + (1 + num_drafts if samples else 0),
            sequence.arrival,
            sequence.num_preemptions,
            num_prompt_logits,
            num_drafts,
        )

    def _finish(self, sequence: Sequence, reason: str) -> None:
        if sequence.status is not SequenceStatus.WAITING:
            self.cache.free(sequence.sequence_id)
        self._seats.leave(sequence)
        self._order.remove(sequence)
        del self._sequences[sequence.sequence_id]
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason
