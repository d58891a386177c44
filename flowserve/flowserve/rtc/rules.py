"""Fetch or recompute: whether KV in a lower tier is worth its way to the device. Pure.

MemServe's rule (arXiv 2406.17565, section on the cost model): fetch iff transfer <= exec(without) - exec(with).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..query_key_pairs import num_pairs
from .moves import Tier


@dataclass(frozen=True, slots=True)
class CostView:
    """What the choice is made from.

    recompute_s_per_token, recompute_s_per_pair: seconds of computing one prompt token, and of each query-key pair of
    its attention: as many as tokens come before it, up to `window`; 0 = all of them.
    transfer_s_per_block: seconds of moving one block to the device, by the tier it lies in; a tier that is missing is
    never fetched from.
    """

    recompute_s_per_token: float
    transfer_s_per_block: Mapping[Tier, float]
    recompute_s_per_pair: float = 0.0
    window: int = 0

    def recompute_s(self, context: int, num_tokens: int) -> float:
        """Seconds of computing `num_tokens` prompt tokens behind `context` others."""
        pairs_s = self.recompute_s_per_pair * num_pairs(context, num_tokens, self.window)
        return self.recompute_s_per_token * num_tokens + pairs_s


ALWAYS_FETCH = CostView(1.0, {Tier.HOST: 0.0, Tier.FILE: 0.0})


@dataclass(frozen=True, slots=True)
class FetchDecision:
    """Fetch the first `num_blocks` of the blocks asked about, recompute the rest.

    transfer_s, recompute_s: what these blocks cost on either way.  reason: the choice in words, for logs.
    """

    num_blocks: int
    transfer_s: float
    recompute_s: float
    reason: str


def fetch_or_recompute(tiers: Sequence[Tier], block_size: int, costs: CostView, context: int = 0) -> FetchDecision:
    """How many of the leading blocks to fetch, given the tier of each: the number that costs least in all.

    context: tokens before them, whose KV is on the device.

    KV is only of use together with all that comes before it, so leading blocks are fetched and the tail is recomputed;
    where two numbers cost the same the larger is taken, because fetching leaves the device to others.
    """
    best = FetchDecision(0, 0.0, 0.0, "nothing to fetch")
    transfer_s = best_saved = 0.0
    for num_blocks, tier in enumerate(tiers, 1):
        if tier not in costs.transfer_s_per_block:
            break
        transfer_s += costs.transfer_s_per_block[tier]
        recompute_s = costs.recompute_s(context, num_blocks * block_size)
        if recompute_s - transfer_s >= best_saved:
            best_saved = recompute_s - transfer_s
            best = FetchDecision(num_blocks, transfer_s, recompute_s, "")
    num_all, all_s = len(tiers), costs.recompute_s(context, len(tiers) * block_size)
    if best.num_blocks:
        reason = (
            f"fetch {best.num_blocks} of {num_all} blocks: {best.transfer_s:.6f} s, {best.recompute_s:.6f} s to compute"
        )
        return FetchDecision(best.num_blocks, best.transfer_s, best.recompute_s, reason)
    reason = f"recompute {num_all} blocks: {all_s:.6f} s, more to fetch" if tiers else best.reason
    return FetchDecision(0, 0.0, 0.0, reason)


class MeasuredCosts:
    """A CostView from what steps and moves took, as moving averages; before the first of a kind, from the estimate.

    is_fitted: the estimate of computing is of a cost model, and stays.  The times are given: no clock is read here.
    """

    _WEIGHT = 0.2  # of the newest measurement

    def __init__(self, estimate: CostView, is_fitted: bool = False) -> None:
        self._estimate = estimate
        self._recompute_s = estimate.recompute_s_per_token
        self._transfer_s = dict(estimate.transfer_s_per_block)
        self._measured: set[Tier] = set()
        self._has_steps = False
        self._is_fitted = is_fitted

    def view(self) -> CostView:
        transfer_s = dict(self._transfer_s)
        return replace(self._estimate, recompute_s_per_token=self._recompute_s, transfer_s_per_block=transfer_s)

    def observe_step(self, num_tokens: int, seconds: float) -> None:
        """A step that computed `num_tokens` prompt tokens (and little else) took `seconds`."""
        if self._is_fitted:
            return
        per_token = seconds / num_tokens
        self._recompute_s = self._mixed(self._recompute_s, per_token) if self._has_steps else per_token
        self._has_steps = True

    def observe_fetch(self, tier: Tier, seconds: float) -> None:
        """One block came from `tier` to the device in `seconds`."""
        known = self._transfer_s.get(tier)
        is_first = known is None or tier not in self._measured
        self._transfer_s[tier] = seconds if is_first else self._mixed(self._transfer_s[tier], seconds)
        self._measured.add(tier)

    def _mixed(self, old: float, new: float) -> float:
        return old + self._WEIGHT * (new - old)


def estimated_costs(num_parameters: int, block_bytes: int) -> CostView:
    """A guess for a machine nothing is known of: 50 GFLOP/s, 2 GB/s from memory, 0.5 GB/s from a file."""
    return CostView(
        recompute_s_per_token=2.0 * num_parameters / 50e9,
        transfer_s_per_block={Tier.HOST: block_bytes / 2e9, Tier.FILE: block_bytes / 0.5e9},
    )
