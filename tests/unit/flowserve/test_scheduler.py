"""The scheduler against a pretended worker that checks, at every step, that the KV it would read is the right one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.errors import InvalidConfigError, PromptTooLongError, UnknownSequenceError
from flowserve.scheduling import SchedulerConfig, TokenResult
from flowserve.sequence import SequenceStatus
from tests.unit.flowserve.pretended import Run, build

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
            run.add(f"s{len(run.requests)}", action[1] + action[2], action[3], wants_prompt_logits=action[4])
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


def test_what_a_sequence_finds_of_its_own_is_no_hit() -> None:
    run = Run(build(num_blocks=8, block_size=2, max_num_sequences=1))
    low = run.add("low", [1, 2, 3, 4, 5, 6], 5)
    for _ in range(3):
        run.step()
    run.add("urgent", [7, 8], 1, priority=-1)
    run.drain()
    run.check_results()
    assert low.num_preemptions == 1 and low.num_cached_tokens == 0
    assert (run.scheduler.prefix_query_tokens, run.scheduler.prefix_hit_tokens) == (8, 0)
    again = run.add("again", [1, 2, 3, 4, 5, 6], 1)
    run.drain()
    assert again.num_cached_tokens == run.scheduler.prefix_hit_tokens == 4 and run.scheduler.prefix_query_tokens == 14


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


@pytest.mark.parametrize("displaced", [False, True])
def test_a_fork_shares_what_is_computed_and_nothing_in_flight(displaced: bool) -> None:
    """The parent was displaced behind its first token and admitted again: if that token ends it, nobody computes what
    is in flight for it."""
    scheduler = build(8, block_size=4, caching=False, max_num_sequences=2)
    parent = scheduler.add("parent", [1, 2, 3, 4, 5], 9)
    batch = scheduler.schedule()
    (done,) = batch.sequences
    if displaced:
        for name in "ab":
            scheduler.add(name, [6], 1, priority=-1)
        taking = scheduler.schedule()
        assert taking.preempted == ("parent",)
        scheduler.abort("a")
        scheduler.abort("b")
        scheduler.complete(batch, {"parent": TokenResult((2,))})
        scheduler.schedule()
        assert parent.num_scheduled == 6
    child = scheduler.add("child", [1, 2, 3, 4, 5], 9, fork_of=done)
    scheduler.check_invariants()
    assert (child.status is SequenceStatus.WAITING) == displaced
    assert scheduler.prefix_hit_tokens == child.num_scheduled == (0 if displaced else 4)
