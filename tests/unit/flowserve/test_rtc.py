"""Blocks, and KV kept for prompts that start alike. (That the KV is right is tested with the scheduler.)"""

from __future__ import annotations

import pytest

from flowserve.errors import InvalidConfigError, InvalidContextError, UnknownContextError
from flowserve.rtc.blocks import BlockPool
from flowserve.rtc.cache import Match, RelationalTensorCache
from flowserve.rtc.index import block_hashes
from flowserve.rtc.moves import MoveResult, Tier
from flowserve.rtc.populates import PopulateState, PopulateStatus
from flowserve.rtc.rules import CostView, MeasuredCosts, estimated_costs, fetch_or_recompute

A = list(range(100, 112))


def holding(cache: RelationalTensorCache, sequence_id: str, tokens: list[int]) -> list[int]:
    """A sequence with these tokens computed and published; returns its blocks."""
    cache.adopt(sequence_id, cache.match_by_prefix_token(tokens))
    assert cache.alloc_blocks(sequence_id, len(tokens))
    cache.tables.computed(sequence_id, tokens, len(tokens))
    cache.check_invariants()
    return list(cache.tables.of(sequence_id))


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
    assert (list(cache.tables.sequence_ids), cache.num_free_blocks) == (["a"], 1)
    assert cache.alloc_blocks("a", 9) and not cache.alloc_blocks("a", 13)
    assert cache.tables.of("a") == [0, 1, 2]
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
        cache.tables.computed(sequence_id, A, 12)
        cache.check_invariants()
    assert cache.tables.of("a") == cache.tables.of("b")
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


# --- fork, tenants, contexts ----------------------------------------------------------------------------


def test_a_fork_shares_until_somebody_writes() -> None:
    cache = RelationalTensorCache(8, 4)
    assert cache.alloc_blocks("a", 6)
    cache.tables.computed("a", A[:6], 6)
    for child in "bc":
        cache.tables.fork("a", child, 6)
    assert cache.tables.of("b") == cache.tables.of("a") == [0, 1] and cache.num_free_blocks == 6
    assert cache.alloc_blocks("b", 7, write_from=6) and cache.alloc_blocks("c", 7, write_from=6)
    assert cache.tables.take_copies() == [(1, 2), (1, 3)] and cache.tables.take_copies() == []
    assert cache.alloc_blocks("a", 7, write_from=6), "the last one keeps the block"
    assert cache.tables.take_copies() == []
    assert [cache.tables.of(each) for each in "abc"] == [[0, 1], [0, 2], [0, 3]]
    cache.check_invariants()


def test_a_fork_that_writes_needs_a_free_block() -> None:
    cache = RelationalTensorCache(2, 4)
    assert cache.alloc_blocks("a", 6)
    cache.tables.fork("a", "b", 6)
    assert not cache.alloc_blocks("b", 7, write_from=6)
    assert cache.tables.of("b") == [0, 1] and cache.tables.take_copies() == []
    cache.free("a")
    assert cache.alloc_blocks("b", 7, write_from=6) and cache.tables.take_copies() == []


def test_tenants_do_not_see_each_others_hits() -> None:
    cache = RelationalTensorCache(9, 4)
    for sequence_id, salt in (("a", "one"), ("b", "two"), ("c", None)):
        cache.adopt(sequence_id, cache.match_by_prefix_token(A, salt), salt)
        assert cache.alloc_blocks(sequence_id, 12)
        cache.tables.computed(sequence_id, A, 12)
        for other in {"one", "two", None} - {salt}:
            assert set(cache.match_by_prefix_token([*A, 1], other).blocks).isdisjoint(cache.tables.of(sequence_id))
        assert cache.match_by_prefix_token([*A, 1], salt).blocks == tuple(cache.tables.of(sequence_id))
        cache.check_invariants()


def test_a_context_is_pinned_up_to_the_share_and_the_newest_win() -> None:
    cache = RelationalTensorCache(8, 4, context_share=0.5)
    for number in (1, 2):
        holding(cache, "a", [number] * 13)
        cache.free("a")
        cache.contexts.preserve(f"c{number}", [number] * 12, 10.0, 0.0)
        cache.check_invariants()
        assert cache.contexts.num_pinned_blocks == 3
    assert cache.alloc_blocks("big", 20)  # all that is not pinned
    assert not cache.alloc_blocks("big", 21)
    assert cache.match_by_id("c2", [9], 1.0)[1].num_tokens == 12
    tokens, match = cache.match_by_id("c1", [9], 1.0)
    assert (tokens, match.num_tokens) == ([1] * 12 + [9], 0), "its tokens outlive its blocks"
    assert cache.contexts.unpin() and cache.alloc_blocks("big", 32)
    cache.check_invariants()


def test_a_context_larger_than_the_share_is_pinned_in_part() -> None:
    cache = RelationalTensorCache(8, 4, context_share=0.25)
    holding(cache, "a", A)
    cache.contexts.preserve("c", A, 10.0, 0.0)
    assert cache.contexts.num_pinned_blocks == 2
    cache.free("a")
    cache.check_invariants()


def test_a_context_lives_from_its_last_use_and_belongs_to_its_tenant() -> None:
    cache = RelationalTensorCache(8, 4)
    cache.contexts.preserve("c", A, 10.0, 100.0, "one")
    cache.match_by_id("c", [], 109.0, "one")
    cache.match_by_id("c", [], 118.0, "one")
    with pytest.raises(UnknownContextError, match="'c'"):
        cache.match_by_id("c", [], 118.0, "two")
    assert cache.contexts.expire(127.9) == []
    with pytest.raises(UnknownContextError, match="'c'.* expired"):
        cache.match_by_id("c", [], 128.0, "one")
    assert len(cache.contexts) == 0
    for context_id, tokens, ttl_s in (("", A, 1.0), ("c", [], 1.0), ("c", A, 0.0), ("c", A, float("nan"))):
        with pytest.raises(InvalidContextError):
            cache.contexts.preserve(context_id, tokens, ttl_s, 0.0)


# --- lower tiers ----------------------------------------------------------------------------------------


def carry_out(cache: RelationalTensorCache, error: str | None = None) -> list[tuple[str, str]]:
    """All planned moves, by way of an executor that does nothing."""
    moves = cache.tiers.take_moves()
    cache.finish_moves([MoveResult(move, error, 0.0) for move in moves])
    cache.check_invariants()
    return [(move.source.name, move.target.name) for move in moves]


def test_what_leaves_the_device_comes_back_from_the_host() -> None:
    cache = RelationalTensorCache(3, 4, num_host_blocks=4)
    holding(cache, "a", A)
    cache.free("a")
    holding(cache, "b", [7] * 12)
    assert carry_out(cache) == [("DEVICE", "HOST")] * 3
    cache.free("b")
    match = cache.match_by_prefix_token([*A, 1])
    assert (match.num_tokens, len(match.below)) == (0, 3)
    assert match.decision and "fetch 3 of 3" in match.decision.reason
    assert cache.populate("c", match) and len(cache.tables.of("c")) == 3
    assert cache.query_populate("c").state is PopulateState.PENDING
    again = cache.match_by_prefix_token([*A, 1])
    assert again.arriving and again.blocks == tuple(cache.tables.of("c"))
    assert ("HOST", "DEVICE") in carry_out(cache)
    assert cache.query_populate("c") == PopulateStatus(PopulateState.DONE, 12)
    assert cache.stats().hit_tokens[Tier.HOST] == 12 and cache.stats().moved_blocks[Tier.HOST, Tier.DEVICE] == 3


def test_a_fetch_that_fails_shortens_the_populate() -> None:
    cache = RelationalTensorCache(6, 4, num_host_blocks=4)
    holding(cache, "a", A)
    assert cache.copy("a") == 3
    carry_out(cache)
    cache.free("a")
    holding(cache, "b", [7] * 24)
    cache.free("b")
    carry_out(cache)
    assert cache.populate("c", cache.match_by_prefix_token([*A, 1]))
    first, second, third = [move for move in cache.tiers.take_moves() if move.fills_device]
    errors = [(first, None), (second, "checksum"), (third, None)]
    cache.finish_moves([MoveResult(move, error, 0.0) for move, error in errors])
    cache.check_invariants()
    assert cache.query_populate("c") == PopulateStatus(PopulateState.FAILED, 4)
    assert len(cache.tables.of("c")) == 1
    stats = cache.stats()
    assert (stats.failed_moves, stats.failed_populates) == ({"checksum": 1}, 1)
    assert cache.match_by_prefix_token([*A, 1]).num_tokens == 4


def test_a_block_that_is_being_filled_is_nobody_elses() -> None:
    cache = RelationalTensorCache(3, 4, num_host_blocks=4)
    holding(cache, "a", A)
    cache.free("a")
    holding(cache, "b", [7] * 12)
    carry_out(cache)
    cache.free("b")
    assert cache.populate("c", cache.match_by_prefix_token([*A, 1]))
    cache.free("c")  # aborted while the moves are under way
    assert cache.num_free_blocks == 0 and not cache.alloc_blocks("d", 1)
    carry_out(cache)
    assert cache.num_free_blocks == 3


def test_blocks_reach_the_file_before_the_host_needs_their_place() -> None:
    cache = RelationalTensorCache(3, 4, num_host_blocks=6, num_file_blocks=12)
    for number in range(1, 6):
        holding(cache, "a", [number] * 12)
        cache.free("a")
        while carry_out(cache):
            pass
    tiers = [[node.tier for node in cache.match_by_prefix_token([n] * 13).below] for n in range(1, 5)]
    assert tiers == [[Tier.FILE] * 3] * 2 + [[Tier.HOST] * 3] * 2
    assert cache.stats().forgotten_blocks == 0


def test_relocations_are_told_by_names_that_a_router_can_compute() -> None:
    cache = RelationalTensorCache(3, 4)
    holding(cache, "a", A)
    cache.free("a")
    assert [(each.prefix, each.tier) for each in cache.take_relocations()] == [
        (name, Tier.DEVICE) for name in block_hashes(A, 4)
    ]
    holding(cache, "b", [7] * 8)
    gone = [each.prefix for each in cache.take_relocations() if each.tier is None]
    assert gone == block_hashes(A, 4)[:0:-1]
    assert cache.take_relocations() == []
    assert block_hashes(A, 4, "one")[0] != block_hashes(A, 4)[0] != block_hashes(A[4:], 4)[0]


def test_clear_forgets_every_tier_and_no_context() -> None:
    cache = RelationalTensorCache(4, 4, num_host_blocks=4)
    holding(cache, "a", A)
    cache.contexts.preserve("c", A, 10.0, 0.0)
    cache.copy("a")
    cache.free("a")
    cache.clear()
    carry_out(cache)
    assert cache.num_free_blocks == 4 and cache.num_cached_blocks == 0
    assert cache.match_by_id("c", [1], 1.0)[0] == [*A, 1]


# --- fetch or recompute ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tiers", "recompute", "transfer", "expected"),
    [
        ([], 1.0, {Tier.HOST: 0.1}, 0),
        ([Tier.HOST] * 3, 1.0, {Tier.HOST: 3.9}, 3),
        ([Tier.HOST] * 3, 1.0, {Tier.HOST: 4.0}, 3),  # equal: the device is left to others
        ([Tier.HOST] * 3, 1.0, {Tier.HOST: 4.1}, 0),
        ([Tier.HOST, Tier.FILE], 1.0, {Tier.HOST: 1.0, Tier.FILE: 5.0}, 1),  # the file's is cheaper to compute
        ([Tier.FILE, Tier.HOST, Tier.HOST], 1.0, {Tier.HOST: 1.0, Tier.FILE: 9.0}, 3),  # worth it for those behind
        ([Tier.FILE, Tier.HOST], 1.0, {Tier.HOST: 1.0, Tier.FILE: 9.0}, 0),
        ([Tier.HOST, Tier.FILE], 1.0, {Tier.HOST: 1.0}, 1),
    ],
)
def test_fetch_iff_it_costs_less_than_computing(
    tiers: list[Tier], recompute: float, transfer: dict[Tier, float], expected: int
) -> None:
    decision = fetch_or_recompute(tiers, 4, CostView(recompute, transfer))
    assert decision.num_blocks == expected
    assert decision.reason.startswith("fetch" if expected else "recompute" if tiers else "nothing")
    assert decision.transfer_s <= decision.recompute_s


def test_what_lies_before_the_blocks_below_counts() -> None:
    """Two of three blocks are on the device: the attention of the third's tokens looks at them, too."""
    cache = RelationalTensorCache(3, 4, num_host_blocks=2)
    holding(cache, "a", A)
    cache.free("a")
    assert cache.alloc_blocks("b", 1)
    cache.finish_moves([MoveResult(move, None, 0.0) for move in cache.tiers.take_moves()])
    for pair_s, num_fetched in ((0.1, 1), (0.01, 0)):
        cache.costs = CostView(0.0, {Tier.HOST: 1.0}, recompute_s_per_pair=pair_s)
        match = cache.match_by_prefix_token([*A, 1])
        assert (match.num_tokens, len(match.below)) == (8, num_fetched)
        assert cache.costs.recompute_s(8, 4) == pytest.approx((9 + 10 + 11 + 12) * pair_s)
    assert match.decision is not None and "0.420000 s" in match.decision.reason


def test_costs_follow_what_is_measured() -> None:
    costs = MeasuredCosts(estimated_costs(num_parameters=1_000_000, block_bytes=2_000_000))
    assert costs.view().recompute_s_per_token == pytest.approx(4e-5)
    assert costs.view().transfer_s_per_block == {Tier.HOST: pytest.approx(1e-3), Tier.FILE: pytest.approx(4e-3)}
    costs.observe_step(10, 1.0)
    costs.observe_fetch(Tier.FILE, 0.5)
    assert costs.view() == CostView(0.1, {Tier.HOST: pytest.approx(1e-3), Tier.FILE: 0.5})
    costs.observe_step(10, 2.0)
    assert costs.view().recompute_s_per_token == pytest.approx(0.12)
