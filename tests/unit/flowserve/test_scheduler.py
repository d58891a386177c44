"""The scheduler against a pretended worker that checks, at every step, that the KV it would read is the right one."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.errors import InvalidConfigError, PromptTooLongError, UnknownSequenceError
from flowserve.rtc.cache import RelationalTensorCache
from flowserve.scheduling import Batch, Scheduler, SchedulerConfig, TokenResult

STOP_TOKEN = 0


def build(num_blocks: int = 8, block_size: int = 4, caching: bool = True, **config: int) -> Scheduler:
    return Scheduler(SchedulerConfig(**config), RelationalTensorCache(num_blocks, block_size, caching))


def next_token(tokens: list[int]) -> int:
    """A model: any function of the tokens so far. Now and then it says STOP_TOKEN."""
    return hash(tuple(tokens)) % 13


class PretendedWorker:
    """Holds tokens and a KV memory in which each slot remembers the tokens it was computed from."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
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
            for position in range(entry.end - len(drafts)):
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

    def _slot(self, table: tuple[int, ...], position: int) -> tuple[int, int]:
        return table[position // self.block_size], position % self.block_size


class Run:
    """Drives a scheduler with `depth` steps in flight and keeps what came out."""

    def __init__(self, scheduler: Scheduler, depth: int = 1, drafting: bool = False) -> None:
        self.scheduler = scheduler
        self.depth = depth
        self.drafting = drafting
        self.worker = PretendedWorker(scheduler.cache.block_size)
        self.in_flight: deque[tuple[Batch, dict[str, TokenResult]]] = deque()
        self.requests: dict[str, tuple[list[int], int]] = {}
        self.finished: dict[str, Any] = {}
        self.aborted: set[str] = set()
        self.wanting: set[str] = set()

    def add(self, sequence_id: str, prompt: list[int], max_tokens: int, wants_prompt_logits: bool = False) -> None:
        self.scheduler.add(sequence_id, prompt, max_tokens, wants_prompt_logits)
        if wants_prompt_logits:
            self.wanting.add(sequence_id)
        self.worker.tokens[sequence_id] = list(prompt)
        self.requests[sequence_id] = (prompt, max_tokens)

    def abort(self, sequence_id: str) -> None:
        if sequence_id in self.aborted or sequence_id in self.finished:
            with pytest.raises(UnknownSequenceError):
                self.scheduler.abort(sequence_id)
        else:
            self.scheduler.abort(sequence_id)
            self.aborted.add(sequence_id)

    def step(self) -> bool:
        """Launch a step, then complete the oldest one when the pipe is full or nothing could be launched."""
        batch = self.scheduler.schedule(self.worker.draft() if self.drafting else None)
        self.scheduler.check_invariants()
        config = self.scheduler.config
        assert batch.num_tokens <= config.max_num_batched_tokens
        assert len(batch.sequences) <= config.max_num_sequences
        if batch:
            self.in_flight.append((batch, self.worker.execute(batch)))
        if self.in_flight and (not batch or len(self.in_flight) >= self.depth):
            for sequence in self.scheduler.complete(*self.in_flight.popleft()):
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


PREFIXES = [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 9]]
actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"), st.sampled_from(PREFIXES), st.lists(st.integers(1, 5), min_size=1, max_size=9),
            st.integers(1, 12), st.booleans(),
        ),
        st.tuples(st.just("abort"), st.integers(0, 20)),
        st.tuples(st.just("step"), st.integers(1, 6)),
    ),
    min_size=1,
    max_size=25,
)  # fmt: skip


@settings(max_examples=300)
@given(
    actions=actions,
    num_blocks=st.integers(8, 14),
    max_num_sequences=st.integers(1, 4),
    max_num_batched_tokens=st.integers(1, 12),
    caching=st.booleans(),
    depth=st.integers(1, 3),
    drafting=st.booleans(),
)
def test_every_sequence_ends_with_its_own_tokens(
    actions: list[Any],
    num_blocks: int,
    max_num_sequences: int,
    max_num_batched_tokens: int,
    caching: bool,
    depth: int,
    drafting: bool,
) -> None:
    """Whatever is added, aborted and preempted, with steps planned before the results of those before are known."""
    scheduler = build(
        num_blocks,
        caching=caching,
        max_num_sequences=max_num_sequences,
        max_num_batched_tokens=max_num_batched_tokens,
        max_prompt_logits=3,
    )
    run = Run(scheduler, depth, drafting)
    for action in actions:
        if action[0] == "add":
            run.add(f"s{len(run.requests)}", action[1] + action[2], action[3], action[4])
        elif action[0] == "abort" and f"s{action[1]}" in run.requests:
            run.abort(f"s{action[1]}")
        elif action[0] == "step":
            for _ in range(action[1]):
                run.step()
        scheduler.check_invariants()
    run.drain()
    run.check_results()


def test_a_step_mixes_decoding_and_prefill_within_the_budget() -> None:
    run = Run(build(32, max_num_batched_tokens=6))
    run.add("a", [1, 2, 3, 4], 8)
    run.step()
    run.add("b", list(range(11, 22)), 8)
    batch = run.scheduler.schedule()
    assert [(e.sequence_id, e.start, e.num_tokens, e.samples) for e in batch.sequences] == [
        ("a", 4, 1, True),
        ("b", 0, 5, False),
    ]


def test_the_next_step_needs_no_results() -> None:
    scheduler = build(32)
    scheduler.add("a", [1, 2, 3], 3)
    first, second, third, fourth = (scheduler.schedule() for _ in range(4))
    assert [e.start for batch in (first, second, third) for e in batch.sequences] == [0, 3, 4]
    assert not fourth, "the last token a sequence may have is never an input"


def test_the_youngest_is_preempted_and_comes_back() -> None:
    scheduler = build(num_blocks=5, block_size=2, caching=False)
    scheduler.add("old", [1, 2, 3], 6)
    scheduler.add("young", [1, 2], 6)
    order, preempted = [], []
    while scheduler.has_work:
        batch = scheduler.schedule()
        preempted += batch.preempted
        results = {entry.sequence_id: TokenResult((7,)) for entry in batch.sequences if entry.samples}
        order += [sequence.sequence_id for sequence in scheduler.complete(batch, results)]
        scheduler.check_invariants()
    assert preempted == ["young"] and order == ["old", "young"]
    assert scheduler.num_preemptions == 1


def test_admission_keeps_a_block_for_each_running_sequence() -> None:
    run = Run(build(num_blocks=3, block_size=4, caching=False))
    run.add("a", [1] * 8, 4)
    run.step()
    run.add("b", [2] * 4, 1)
    assert [e.sequence_id for e in run.scheduler.schedule().sequences] == ["a"]


def test_what_could_never_run_is_refused() -> None:
    scheduler = build(num_blocks=2, block_size=4)
    with pytest.raises(PromptTooLongError, match="8 tokens of the KV cache"):
        scheduler.add("a", [1] * 8, 2)
    scheduler.add("b", [1] * 8, 1)
    with pytest.raises(UnknownSequenceError, match="already"):
        scheduler.add("b", [1], 1)
    with pytest.raises(UnknownSequenceError, match="'c'"):
        scheduler.abort("c")
    with pytest.raises(InvalidConfigError):
        SchedulerConfig(max_num_sequences=0)


def test_an_id_used_again_does_not_get_the_old_results() -> None:
    run = Run(build(32))
    run.add("a", [1, 2, 3], 5)
    old = run.scheduler.schedule()
    run.scheduler.abort("a")
    run.scheduler.add("a", [4, 5], 5)
    assert run.scheduler.complete(old, {"a": TokenResult((9,))}) == []
    (entry,) = run.scheduler.schedule().sequences
    assert (entry.start, entry.num_tokens) == (0, 2)


def test_right_drafts_save_steps_and_wrong_ones_cost_none() -> None:
    scheduler = build(32)
    scheduler.add("a", [1, 2, 3], 9)
    scheduler.complete(scheduler.schedule({"a": 4}), {"a": TokenResult((4,))})  # a prompt has no drafts
    (entry,) = (batch := scheduler.schedule({"a": 3})).sequences
    assert (entry.start, entry.num_tokens, entry.num_drafts, entry.num_logits) == (3, 4, 3, 4)
    assert not scheduler.schedule({"a": 3}), "its length is not known before the drafts are verified"
    scheduler.complete(batch, {"a": TokenResult((5, 6))})  # one draft of three was right
    (entry,) = (batch := scheduler.schedule()).sequences
    assert (entry.start, entry.num_tokens, entry.num_logits) == (5, 1, 1)
    scheduler.complete(batch, {"a": TokenResult((7,))})
    (entry,) = (batch := scheduler.schedule({"a": 99})).sequences
    assert entry.num_drafts == 4, "four and the one that follows them are left"
    (finished,) = scheduler.complete(batch, {"a": TokenResult((8, 9, 10, 11, 12))})
    assert finished.finish_reason == "length" and finished.token_ids == list(range(1, 13))


def test_drafts_take_neither_budget_nor_blocks_from_others() -> None:
    scheduler = build(8, block_size=4, max_num_batched_tokens=4)
    for sequence_id in "ab":
        scheduler.add(sequence_id, [1], 12)
    scheduler.complete(scheduler.schedule(), {"a": TokenResult((2,)), "b": TokenResult((2,))})
    batch = scheduler.schedule({"a": 9, "b": 9})
    assert [(entry.num_tokens, entry.num_drafts) for entry in batch.sequences] == [(3, 2), (1, 0)]
    tight = build(4, block_size=2)
    for sequence_id in "ab":
        tight.add(sequence_id, [1], 7)
    tight.complete(tight.schedule(), {"a": TokenResult((2,)), "b": TokenResult((2,))})
    batch = tight.schedule({"a": 3, "b": 3})
    assert [entry.num_drafts for entry in batch.sequences] == [0, 0] and not batch.preempted
