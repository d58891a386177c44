"""Drawing a token at random: temperature, top-k, top-p, min-p, then the inverse of the cumulative distribution.

In vocabulary order and float64, so that rounding practically never moves a draw. A vocabulary is wide and few of its
tokens matter, so what can be said from the largest logits of blocks of tokens is said from those.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sampling_params import MAX_TEMPERATURE, SamplingParams

Row = NDArray[np.float32]
_Weights = NDArray[np.float64]
_Ids = NDArray[np.int64]

_BLOCK = 512
_FEW = 8 * _BLOCK  # tokens among which blocks do not pay
_CANDIDATES = (256, 4096)
"""How many of the most likely tokens are looked at for top-p before all are sorted: sorting 150,000 takes 10 ms."""


def draw(logits: Row, params: SamplingParams, draw: float) -> int:
    """A token by its logits [V]; `draw` in [0, 1) decides. -1 where no token has a probability.

    The logits may be overwritten, unless the answer is -1.
    """
    highest = float(logits.max())
    if not math.isfinite(highest):
        return -1
    scale = 1.0 / min(max(params.temperature, 1e-5), MAX_TEMPERATURE)  # a normal number in float32: -inf * 0 is NaN
    if 0 < params.top_k < len(logits):
        token_ids = largest(logits, params.top_k)
        weights = _weights(logits[token_ids], highest, scale)
        if params.top_p < 1.0:
            token_ids, weights = _nucleus(token_ids, weights, params.top_p * float(weights.sum()))
    elif params.top_p < 1.0:
        token_ids, weights = _nucleus_of_all(logits, highest, scale, params.top_p)
    elif params.min_p > 0.0:
        lowest = highest + math.log(params.min_p) / scale
        token_ids = np.flatnonzero(logits >= lowest - 1e-3 * (1.0 + abs(lowest)))  # rounding is settled below
        weights = _weights(logits[token_ids], highest, scale)
    else:
        return _draw_from_all(_all_weights(logits, highest, scale, out=logits), draw)
    if params.min_p > 0.0:  # the most likely token has the weight 1
        kept = weights >= params.min_p
        token_ids, weights = token_ids[kept], weights[kept]
    order = token_ids.argsort()
    return int(token_ids[order[_place(weights[order], draw)]])


def largest(logits: Row, count: int) -> _Ids:
    """The `count` tokens with the largest logits [V], in no order; of equal ones at the edge, the first."""
    size = len(logits) // _BLOCK * _BLOCK
    num_blocks = size // _BLOCK
    if count <= num_blocks:  # each of the `count` best blocks has a token as large as the worst of their best
        best = logits[:size].reshape(num_blocks, _BLOCK).max(axis=1)
        lowest = np.partition(best, num_blocks - count)[num_blocks - count]
    else:
        lowest = np.partition(logits, len(logits) - count)[len(logits) - count]
    found = np.flatnonzero(logits >= lowest)
    if len(found) > count:
        found = found[np.argsort(-logits[found], kind="stable")[:count]]
    return found


def _weights(logits: Row, highest: float, scale: float) -> _Weights:
    """In proportion to the probabilities; 1 for the most likely token."""
    return np.exp((logits.astype(np.float64) - highest) * scale)


def _all_weights(logits: Row, highest: float, scale: float, out: Row | None = None) -> Row:
    weights = np.subtract(logits, np.float32(highest), out=out)
    if scale != 1.0:
        np.multiply(weights, np.float32(scale), out=weights)
    return np.exp(weights, out=weights)


def _nucleus_of_all(logits: Row, highest: float, scale: float, top_p: float) -> tuple[_Ids, _Weights]:
    wanted = top_p * float(block_sums(_all_weights(logits, highest, scale))[-1])
    for count in (*(count for count in _CANDIDATES if count < len(logits)), len(logits)):
        token_ids = largest(logits, count)
        weights = _weights(logits[token_ids], highest, scale)
        if count == len(logits) or float(weights.sum()) > wanted:
            break
    return _nucleus(token_ids, weights, wanted)


def _nucleus(token_ids: _Ids, weights: _Weights, wanted: float) -> tuple[_Ids, _Weights]:
    """The most likely tokens, each as long as those before it weigh less than wanted; the first always."""
    order = np.lexsort((token_ids, -weights))
    ordered = weights[order]
    num_kept = max(1, int(np.searchsorted(ordered.cumsum() - ordered, wanted, side="left")))
    return token_ids[order[:num_kept]], ordered[:num_kept]


def _draw_from_all(weights: Row, draw: float) -> int:
    """Find the block of tokens in which the draw falls, then the token in the block."""
    if len(weights) <= _FEW:
        return _place(weights.astype(np.float64), draw)
    sums = block_sums(weights)
    target = draw * float(sums[-1])
    block = _first_above(sums, target)
    first = block * _BLOCK
    rest = target - (float(sums[block - 1]) if block else 0.0)
    return first + _first_above(weights[first : first + _BLOCK].astype(np.float64).cumsum(), rest)


def block_sums(weights: Row) -> Any:
    """Cumulative weights of blocks of tokens; the last is the sum of all."""
    return np.add.reduceat(weights, _block_starts(len(weights))).astype(np.float64).cumsum()


@lru_cache(maxsize=8)
def _block_starts(size: int) -> _Ids:
    return np.arange(0, size, _BLOCK)


def _place(weights: _Weights, draw: float) -> int:
    cumulative = weights.cumsum()
    return _first_above(cumulative, draw * float(cumulative[-1]))


def _first_above(cumulative: _Weights, target: float) -> int:
    """The first whose cumulative weight exceeds the target, which has a weight above zero itself."""
    target = min(target, math.nextafter(float(cumulative[-1]), 0.0))
    return int(cumulative.searchsorted(target, side="right"))
