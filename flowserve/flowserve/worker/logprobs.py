"""Log-probabilities of tokens, from raw logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..outputs import TokenLogprobs


def token_logprobs(logits: torch.Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """For each row of logits [n, V] its token's log-probability and those of the `num_top` most likely tokens."""
    total = torch.logsumexp(logits, dim=-1, keepdim=True)
    chosen = logits.gather(1, torch.tensor(token_ids)[:, None]) - total
    values, indices = logits.topk(min(num_top, logits.shape[1]), dim=-1)
    return [
        TokenLogprobs(token_id, logprob, tuple(zip(top_ids, top_values, strict=True)))
        for token_id, logprob, top_ids, top_values in zip(
            token_ids, chosen[:, 0].tolist(), indices.tolist(), (values - total).tolist(), strict=True
        )
    ]
