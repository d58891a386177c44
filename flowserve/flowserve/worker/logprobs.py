"""Log-probabilities of tokens, from raw logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..outputs import TokenLogprobs
from .drawing import Row, block_sums, largest


def token_logprobs(logits: Row, token_id: int, num_top: int) -> TokenLogprobs:
    """The log-probability of a token by logits [V], and those of the `num_top` most likely tokens, best first."""
    highest = logits.max()
    weights = logits - highest
    total = float(highest) + float(np.log(block_sums(np.exp(weights, out=weights))[-1]))
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        found = largest(logits, min(num_top, len(logits)))
        found = found[np.lexsort((found, -logits[found]))]
        top = tuple(zip(found.tolist(), (logits[found].astype(np.float64) - total).tolist(), strict=True))
    return TokenLogprobs(token_id, float(logits[token_id]) - total, top)


def prompt_logprobs(logits: NDArray[np.float32], token_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """Of each row of logits [n, V] and its token."""
    return [token_logprobs(row, token_id, num_top) for row, token_id in zip(logits, token_ids, strict=True)]
