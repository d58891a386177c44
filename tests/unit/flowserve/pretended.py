"""A pretended worker that checks, at every step, that the KV it would read is the right one, and what drives it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flowserve.errors import UnknownSequenceError
from flowserve.rtc.cache import RelationalTensorCache
from flowserve.scheduling import Batch, BoundedPriority, Scheduler, SchedulerConfig, TokenResult

STOP_TOKEN = 0


def build(
    num_blocks: int = 8, block_size: int = 4, caching: bool = True, max_overtakes: int = 1000, **config: Any
) -> Scheduler:
    cache = RelationalTensorCache(num_blocks, block_size, caching)
    return Scheduler(SchedulerConfig(**config), cache, BoundedPriority(max_overtakes))


def next_token(tokens: list[int]) -> int:
    """A model: any function of the tokens so far. Now and then it says STOP_TOKEN."""
    return hash(tuple(tokens)) % 13


class PretendedWorker:
    """Holds tokens and a KV memory in which each slot remembers the tokens it was computed from. window: keys that a
    query reads at most; 0 = all."""

    def __init__(self, block_size: int, window: int = 0) -> None:
        self.block_size = block_size
        self.window = window
        self.tokens: dict[str, list[int]] = {}
        self.kv: dict[tuple[int, int], int] = {}
        self.drafts: dict[str, list[int]] = {}
        self.prompt_logits: dict[str, list[int]] = {}

    def execute(self, batch: Batch) -> dict[str, TokenResult]:
        written: dict[tuple[int, int], str] = {}
        for entry in batch.sequences:
            tokens = self.tokens[entry.sequence_id]
            if entry.num_drafts:
                tokens = tokens + self.drafts[entry.sequence_id][: entry.num_drafts]
                assert entry.num_tokens == 1 + entry.num_drafts
            assert len(tokens) >= entry.end, "scheduled beyond the known tokens"
            assert entry.samples == (entry.end == len(tokens))
            assert entry.num_logits == entry.num_prompt_logits + (1 + entry.num_drafts if entry.samples else 0)
            self.prompt_logits.setdefault(entry.sequence_id, []).extend(
                range(entry.end - entry.num_logits, entry.end - entry.num_logits + entry.num_prompt_logits)
            )
            for position in range(entry.start, entry.end):
                slot = self._slot(entry.block_table, position)
                assert slot not in written, "two sequences write one slot"
                written[slot] = entry.sequence_id
                self.kv[slot] = hash(tuple(tokens[: position + 1]))
        results = {}
        for entry in batch.sequences:
            tokens = self.tokens[entry.sequence_id]
            drafts = self.drafts[entry.sequence_id][: entry.num_drafts] if entry.num_drafts else []
            first_read = max(0, entry.start + 1 - self.window) if self.window else 0
            for position in range(first_read, entry.end - len(drafts)):
                found = self.kv.get(self._slot(entry.block_table, position))
                assert found == hash(tuple(tokens[: position + 1])), f"wrong KV at {position} of {entry.sequence_id}"
            if entry.samples:
                new = [next_token(tokens)]
                while len(new) <= len(drafts) and new[-1] == drafts[len(new) - 1] != STOP_TOKEN:
                    new.append(next_token(tokens + new))
                tokens += new
                results[entry.sequence_id] = TokenResult(tuple(new), "stop" if new[-1] == STOP_TOKEN else None)
        return results

    def draft(self) -> dict[str, int]:
        """Guess for every sequence up to three tokens, of which none, some or all are right."""
        for sequence_id, tokens in self.tokens.items():
            right: list[int] = []
            while len(right) < 3:
                right.append(next_token(tokens + right))
            num_right = hash((len(tokens), sequence_id)) % 4
            self.drafts[sequence_id] = right[:num_right] + [-1] * (3 - num_right)
        return {sequence_id: hash((sequence_id, len(tokens), 1)) % 4 for sequence_id, tokens in self.tokens.items()}

    def _slot(self, table: Sequence[int], position: int) -> tuple[int, int]:
        return table[position // self.block_size], position % self.block_size


class Run:
    """Drives a scheduler with `depth` steps in flight and keeps what came out. cost: seconds that a step took."""

    def __init__(
        self,
        scheduler: Scheduler,
        depth: int = 1,
        drafting: bool = False,
        cost: Callable[[Batch], float] | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.cost = cost
        self.depth = depth
        self.drafting = drafting
        self.worker = PretendedWorker(scheduler.cache.block_size)
        self.in_flight: deque[tuple[Batch, dict[str, TokenResult]]] = deque()
        self.requests: dict[str, tuple[list[int], int]] = {}
        self.finished: dict[str, Any] = {}
        self.aborted: set[str] = set()
        self.batch = Batch(())
        self.wanting: set[str] = set()

    def add(self, sequence_id: str, prompt: list[int], max_tokens: int, **options: Any) -> Any:
        sequence = self.scheduler.add(sequence_id, prompt, max_tokens, **options)
        if options.get("wants_prompt_logits"):
            self.wanting.add(sequence_id)
        self.worker.tokens[sequence_id] = list(prompt)
        self.requests[sequence_id] = (prompt, max_tokens)
        return sequence

    def expire(self, now_s: float) -> None:
        for sequence in self.scheduler.expire(now_s):
            assert sequence.finish_reason == "deadline"
            self.aborted.add(sequence.sequence_id)

    def abort(self, sequence_id: str) -> None:
        if sequence_id in self.aborted or sequence_id in self.finished:
            with pytest.raises(UnknownSequenceError):
                self.scheduler.abort(sequence_id)
        else:
            self.scheduler.abort(sequence_id)
            self.aborted.add(sequence_id)

    def step(self) -> bool:
        """Launch a step, then complete the oldest one when the pipe is full or nothing could be launched."""
        batch = self.batch = self.scheduler.schedule(self.worker.draft() if self.drafting else None)
        self.scheduler.check_invariants()
        config = self.scheduler.config
        assert batch.num_tokens <= config.max_num_batched_tokens
        assert len(batch.sequences) <= config.max_num_sequences
        if batch:
            self.in_flight.append((batch, self.worker.execute(batch)))
        if self.in_flight and (not batch or len(self.in_flight) >= self.depth):
            done = self.in_flight.popleft()
            if self.cost is not None:
                self.scheduler.took(done[0], self.cost(done[0]))
            for sequence in self.scheduler.complete(*done):
                assert sequence.sequence_id not in self.finished
                self.finished[sequence.sequence_id] = sequence
            self.scheduler.check_invariants()
        return bool(batch) or bool(self.in_flight)

    def drain(self) -> None:
        """To the end, in no more steps than one token per step and preemption allow."""
        limit = 50 + sum((len(prompt) + num) * (len(self.requests) + 1) for prompt, num in self.requests.values())
        for _ in range(limit * self.depth):
            if not self.step() and not self.scheduler.has_work:
                return
        raise AssertionError("no end in sight: a sequence starves")

    def check_results(self) -> None:
        assert self.finished.keys() | self.aborted == self.requests.keys(), "a sequence was lost"
        for sequence_id, sequence in self.finished.items():
            prompt, max_tokens = self.requests[sequence_id]
            tokens = list(prompt)
            while len(tokens) < len(prompt) + max_tokens and (len(tokens) == len(prompt) or tokens[-1] != STOP_TOKEN):
                tokens.append(next_token(tokens))
            assert sequence.token_ids == tokens
            asked_for = range(len(prompt) - 1) if sequence_id in self.wanting else []
            assert self.worker.prompt_logits[sequence_id] == list(asked_for)
            assert sequence.finish_reason == ("stop" if tokens[-1] == STOP_TOKEN else "length")
        assert self.scheduler.cache.num_free_blocks == self.scheduler.cache.num_blocks, "blocks leaked"
