"""Drawing tokens at random: temperature, top-k, top-p, min-p, then the inverse of the cumulative distribution.

In vocabulary order and float64, rounding that differs with the batch practically never moves a draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..sampling_params import SamplingParams

_BLOCK = 512
_CANDIDATES = (256, 4096)
"""How many of the most likely tokens are looked at for top-p before all are sorted: sorting 150,000 takes 10 ms."""


def draw(logits: torch.Tensor, params: Sequence[SamplingParams], draws: Sequence[float]) -> list[int]:
    """One token for each row of logits [n, V]; `draws` in [0, 1) decide. -1 where no token has a probability."""
    temperature = torch.tensor([each.temperature for each in params])[:, None]
    probabilities = torch.softmax(logits / temperature.clamp(min=1e-5), dim=-1)
    tokens = [-1] * len(params)
    whole = []
    for row, each in enumerate(params):
        if each.top_k > 0 or each.top_p < 1.0:
            tokens[row] = _draw_from_head(probabilities[row], each, draws[row])
            continue
        if each.min_p > 0.0:
            kept = probabilities[row]
            kept.masked_fill_(kept < each.min_p * kept.max(), 0.0)
        whole.append(row)
    if whole:
        picked = probabilities if len(whole) == len(params) else probabilities[whole]
        for row, token_id in zip(whole, _invert(picked, [draws[row] for row in whole]), strict=True):
            tokens[row] = token_id
    return tokens


def _draw_from_head(probabilities: torch.Tensor, params: SamplingParams, draw: float) -> int:
    """From the tokens that top-k and top-p leave of one row [V], which are few."""
    values, token_ids = _head(probabilities, params)
    if params.min_p > 0.0:
        values = values.masked_fill(values < params.min_p * values[0], 0.0)
    order = token_ids.argsort()
    cumulative = values[order].double().cumsum(dim=-1)
    total = float(cumulative[-1])
    if not total > 0.0:
        return -1
    target = min(draw * total, math.nextafter(total, 0.0))
    place = int(torch.searchsorted(cumulative, torch.tensor(target, dtype=torch.float64), right=True))
    return int(token_ids[order[place]])


def _head(probabilities: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """The most likely tokens, best first, as far as top-k and top-p allow; the first always."""
    size = probabilities.shape[0]
    limit = min(params.top_k, size) if params.top_k > 0 else size
    if params.top_p >= 1.0:
        values, token_ids = probabilities.topk(limit)
        return values, token_ids
    # top-p is a share of what top-k left, as if its probabilities summed to one.
    whole = probabilities.topk(limit).values.double().sum() if limit < size else probabilities.double().sum()
    for count in (*(count for count in _CANDIDATES if count < limit), limit):
        values, token_ids = probabilities.topk(count)
        before = values.double().cumsum(dim=-1) - values
        num_kept = max(1, int((before < params.top_p * whole).sum()))
        if num_kept < count or count == limit:
            break
    return values[:num_kept], token_ids[:num_kept]


def _invert(probabilities: torch.Tensor, draws: Sequence[float]) -> list[int]:
    """Rows [n, V]: find the block of tokens in which a draw falls, then the token in the block."""
    num_rows, size = probabilities.shape
    padded = F.pad(probabilities, (0, -size % _BLOCK)).view(num_rows, -1, _BLOCK)
    sums = padded.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    totals = sums[:, -1:]
    targets = torch.minimum(torch.tensor(draws, dtype=torch.float64)[:, None] * totals, _below(totals))
    blocks = torch.searchsorted(sums, targets, right=True).clamp(max=sums.shape[1] - 1)
    rows = torch.arange(num_rows)
    before = torch.where(blocks > 0, sums.gather(1, (blocks - 1).clamp(min=0)), 0.0)
    inner = padded[rows, blocks[:, 0]].double().cumsum(dim=-1)
    # The first token whose cumulative probability exceeds the target has a probability above zero.
    places = torch.searchsorted(inner, torch.minimum(targets - before, _below(inner[:, -1:])), right=True)
    found = (blocks * _BLOCK + places)[:, 0].tolist()
    return [token_id if total > 0.0 else -1 for token_id, total in zip(found, totals[:, 0].tolist(), strict=True)]


def _below(values: torch.Tensor) -> torch.Tensor:
    """The next smaller numbers: what a target must not exceed for a token to be found."""
    return torch.nextafter(values, torch.zeros_like(values))
