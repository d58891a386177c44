"""Blocks, and KV kept for prompts that start alike. (That the KV is right is tested with the scheduler.)"""

from __future__ import annotations

import pytest

from flowserve.errors import InvalidConfigError
from flowserve.rtc.blocks import BlockPool
from flowserve.rtc.cache import Match, RelationalTensorCache

A = list(range(100, 112))


def holding(cache: RelationalTensorCache, sequence_id: str, tokens: list[int]) -> list[int]:
    """A sequence with these tokens computed and published; returns its blocks."""
    cache.adopt(sequence_id, cache.match_by_prefix_token(tokens))
    assert cache.alloc_blocks(sequence_id, len(tokens))
    cache.publish(sequence_id, tokens, len(tokens))
    cache.check_invariants()
    return list(cache.block_table(sequence_id))


def test_pool_counts_references() -> None:
    pool = BlockPool(2)
    block = pool.take()
    pool.share(block)
    assert (pool.release(block), pool.num_free) == (1, 1)
    assert (pool.release(block), pool.num_free) == (0, 2)
    with pytest.raises(AssertionError):
        pool.release(block)
    with pytest.raises(AssertionError):
        pool.share(block)
    with pytest.raises(InvalidConfigError):
        BlockPool(0)


def test_alloc_is_all_or_nothing() -> None:
    cache = RelationalTensorCache(3, 4)
    assert cache.alloc_blocks("a", 5)
    assert not cache.alloc_blocks("b", 8)
    assert (list(cache.sequence_ids), cache.num_free_blocks) == (["a"], 1)
    assert cache.append_block("a") and not cache.append_block("a")
    assert cache.block_table("a") == [0, 1, 2]
    cache.free("a")
    assert cache.num_free_blocks == 3
    cache.check_invariants()


def test_a_prefix_outlives_its_sequence() -> None:
    cache = RelationalTensorCache(8, 4)
    blocks = holding(cache, "a", A)
    assert cache.match_by_prefix_token(A) == Match(8, tuple(blocks[:2])), "the last token is always computed"
    assert cache.match_by_prefix_token([*A, 1]) == Match(12, tuple(blocks))
    assert cache.match_by_prefix_token([1, *A]) == Match(0, ())
    cache.free("a")
    assert cache.num_free_blocks == 8 and cache.num_cached_blocks == 3
    assert holding(cache, "b", [*A, 1])[:3] == blocks


def test_the_same_tokens_computed_twice_are_kept_once() -> None:
    cache = RelationalTensorCache(8, 4)
    for sequence_id in "ab":  # both before either is published
        assert cache.alloc_blocks(sequence_id, 12)
    for sequence_id in "ab":
        cache.publish(sequence_id, A, 12)
        cache.check_invariants()
    assert cache.block_table("a") == cache.block_table("b")
    assert cache.num_free_blocks == 5


def test_eviction_takes_the_least_recently_used_and_no_block_in_use() -> None:
    cache = RelationalTensorCache(6, 4)
    old, new = [1] * 8, [2] * 8
    holding(cache, "old", old)
    holding(cache, "new", new)
    cache.free("old")
    cache.free("new")
    kept = holding(cache, "again", [*old, 3])  # "old" is now the more recent one, and in use
    assert cache.alloc_blocks("big", 12)  # takes the free block and both of "new"
    cache.check_invariants()
    assert cache.match_by_prefix_token([*new, 3]).num_tokens == 0
    assert cache.match_by_prefix_token([*old, 3]).blocks == tuple(kept[:2])
    assert not cache.alloc_blocks("more", 1)


def test_children_leave_before_parents() -> None:
    cache = RelationalTensorCache(3, 4)
    holding(cache, "a", A)
    cache.free("a")
    assert cache.alloc_blocks("b", 4)
    cache.check_invariants()
    assert cache.match_by_prefix_token([*A, 1]).num_tokens == 8


def test_without_caching_nothing_is_kept() -> None:
    cache = RelationalTensorCache(8, 4, enable_prefix_caching=False)
    holding(cache, "a", A)
    cache.free("a")
    assert cache.num_cached_blocks == 0
    assert cache.match_by_prefix_token(A).num_tokens == 0


def test_fits_counts_revived_blocks_once() -> None:
    cache = RelationalTensorCache(3, 4)
    holding(cache, "a", A)
    cache.free("a")
    match = cache.match_by_prefix_token(A)  # two of the three "free" blocks
    assert cache.fits(match, 12, num_reserved=0)
    assert not cache.fits(match, 12, num_reserved=1)
    assert not cache.fits(match, 16, num_reserved=0)
