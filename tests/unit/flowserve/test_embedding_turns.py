"""Batches of texts: of similar lengths, each text once, and every request gets its turn."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.embedding_turns import BATCH_TOKENS, EmbeddingTurns, batches_by_length


@settings(max_examples=200, derandomize=True, deadline=None)
@given(lengths=st.lists(st.integers(1, 6000), max_size=60))
def test_batches_hold_every_text_once_and_little_padding(lengths: list[int]) -> None:
    batches = batches_by_length(lengths)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= BATCH_TOKENS or len(batch) == 1
        assert sum(lengths[index] for index in batch) >= 0.75 * padded


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    turns: EmbeddingTurns[str] = EmbeddingTurns(512)
    turns.add("long", [100] * 50)
    assert turns.take() == [("long", place) for place in range(5)]
    turns.add("short", [30])
    turns.add("alike", [95, 100, 300])
    batches = [turns.take() for _ in range(4)]
    assert [batch[0] for batch in batches] == [("long", 5), ("short", 0), ("alike", 2), ("long", 10)]
    assert all(key == "long" for key, _ in batches[0]) and len(batches[1]) == 1
    turns.drop("long")
    assert turns.take() == [("alike", 1), ("alike", 0)] and turns.is_empty


def test_a_request_with_a_batch_under_way_waits_for_it() -> None:
    turns: EmbeddingTurns[str] = EmbeddingTurns(512)
    turns.add("one", [100] * 9)
    turns.add("two", [100])
    assert turns.take(beside={"one"}) == [("two", 0)]
    assert turns.waits() and not turns.waits(beside={"one"}) and turns.take(beside={"one"}) == []


def test_texts_of_several_requests_are_computed_together() -> None:
    turns: EmbeddingTurns[int] = EmbeddingTurns(512)
    for key in range(12):
        turns.add(key, [7])
    turns.add(12, [])
    assert turns.take() == [(key, 0) for key in range(12)] and turns.is_empty


@settings(max_examples=200, derandomize=True, deadline=None)
@given(requests=st.lists(st.lists(st.integers(1, 900), max_size=20), max_size=8))
def test_every_text_of_every_request_is_taken_once(requests: list[list[int]]) -> None:
    turns: EmbeddingTurns[int] = EmbeddingTurns(512)
    for key, lengths in enumerate(requests):
        turns.add(key, lengths)
    taken: list[tuple[int, int]] = []
    while not turns.is_empty:
        batch = turns.take()
        lengths = [requests[key][place] for key, place in batch]
        padded = len(batch) * max(lengths)
        assert len(batch) == 1 or (padded <= 512 and sum(lengths) >= 0.75 * padded)
        taken += batch
    assert sorted(taken) == [(key, place) for key, lengths in enumerate(requests) for place in range(len(lengths))]
