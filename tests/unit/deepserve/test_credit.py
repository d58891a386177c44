"""The two ends of a stream's credit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepserve.protocol.credit import STREAM_BYTES, STREAM_ITEMS, Credit, Taken


def grants(sizes: list[int]) -> list[tuple[int, int]]:
    """Of a reader that takes whatever its sender has room to send. Fails where the two wait for each other."""
    credit, taken = Credit(), Taken()
    granted = []
    waiting = list(reversed(sizes))
    while waiting:
        assert credit.is_open, f"nothing moves with {len(waiting)} of {len(sizes)} items left"
        on_its_way = []
        while waiting and credit.is_open:
            on_its_way.append(waiting.pop())
            credit.spend(1, on_its_way[-1])
        for size_bytes in on_its_way:
            taken.add(1, size_bytes)
            if (grant := taken.take_grant()) is not None:
                credit.grant(*grant)
                granted.append(grant)
    assert sum(items for items, _ in granted) + taken.items == len(sizes)
    assert sum(size_bytes for _, size_bytes in granted) + taken.size_bytes == sum(sizes)
    return granted


@given(st.lists(st.integers(0, 3 * STREAM_BYTES), max_size=200))
def test_a_reader_that_tells_in_steps_never_waits_for_a_sender_that_waits_for_it(sizes: list[int]) -> None:
    grants(sizes)


def test_the_grants_of_small_and_of_large_items() -> None:
    half = STREAM_ITEMS // 2
    assert grants([10] * (2 * half + 1)) == [(half, 10 * half)] * 2
    assert grants([STREAM_BYTES // 8] * 8) == [(2, STREAM_BYTES // 4)] * 4
    assert grants([2 * STREAM_BYTES] * 2) == [(1, 2 * STREAM_BYTES)] * 2
