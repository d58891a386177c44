"""Guesses from a sequence's own tokens, as a plain search over all of them would make them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.worker.ngrams import MAX_PAUSE, Drafter, NgramIndex


def searched(tokens: list[int], sizes: list[int], count: int) -> list[int]:
    """The longest run at the end, its last occurrence before, what followed it; loops go on."""
    for size in sorted(sizes, reverse=True):
        for end in range(len(tokens) - 1, size - 1, -1):
            if len(tokens) >= size and tokens[end - size : end] == tokens[len(tokens) - size :]:
                text = list(tokens)
                while len(text) < len(tokens) + count:
                    text.append(text[end + len(text) - len(tokens)])
                return text[len(tokens) :]
    return []


@settings(max_examples=500, derandomize=True, deadline=None)
@given(
    tokens=st.lists(st.sampled_from([0, 1, 2, 150_000]), max_size=60),
    sizes=st.sampled_from([[1], [2], [1, 2, 3], [2, 3, 4], [3, 5]]),
    count=st.integers(0, 9),
    chunks=st.lists(st.integers(1, 20), max_size=5),
)
def test_as_a_plain_search_finds_them(tokens: list[int], sizes: list[int], count: int, chunks: list[int]) -> None:
    grown: list[int] = []
    index = NgramIndex(grown, sizes)
    for chunk in chunks:  # whenever one looks in between
        grown += tokens[len(grown) : len(grown) + chunk]
        index.draft(3)
    grown += tokens[len(grown) :]
    assert index.draft(count) == (searched(tokens, sizes, count) if count else [])


def test_a_run_that_begins_with_zeros_is_not_a_shorter_one() -> None:
    assert NgramIndex([5, 7, 0, 5], [2]).draft(1) == []
    assert NgramIndex([0, 5, 7, 5], [2]).draft(1) == []


def test_failures_pause_ever_longer_and_hits_widen() -> None:
    drafter = Drafter([1, 2, 1, 2, 1, 2], 8, (1, 3))
    widths = []
    for _ in range(3):
        widths.append(len(drafter.draft()))
        drafter.learn(widths[-1], 1)
    assert widths == [8, 2, 2], "as many as were right, and one more"
    for _ in range(3):
        drafter.learn(2, 2)
    assert len(drafter.draft()) == 8
    pauses = []
    for _ in range(8):
        drafter.learn(8, 0)
        pauses.append(0)
        while not drafter.draft():
            pauses[-1] += 1
    assert pauses == [1, 2, 4, 8, 16, 32, 32, 32] and max(pauses) == MAX_PAUSE
    drafter.learn(1, 1)
    drafter.learn(2, 0)
    assert drafter.draft() == [] and drafter.draft() != [], "one hit ends the row of failures"
