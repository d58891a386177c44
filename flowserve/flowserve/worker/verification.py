"""From the logits of a batch to the tokens of its sequences, drafts verified.

A draft is right where it is the very token that the sampler picks at its position. The sampler goes from token to
token exactly as it would without drafts (penalties, grammars and seeds included), so the tokens are the same too; what
is saved is running the model once for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..scheduling.batch import Batch
from .sampler import SampledToken, SamplerState, sample


def sample_batch(
    batch: Batch, logits: torch.Tensor, states: Mapping[str, SamplerState], drafts: Mapping[str, Sequence[int]]
) -> dict[str, list[SampledToken]]:
    """logits [n, V] float32 as the batch's entries ask for them; the new tokens of each entry that samples.

    drafts: at least `num_drafts` guesses for each entry that has some.
    """
    sampled: dict[str, list[SampledToken]] = {}
    rows: dict[str, int] = {}  # of the sequences whose drafts were right so far: the row of their next token
    num_rows = 0
    for entry in batch.sequences:
        if entry.samples:
            rows[entry.sequence_id] = num_rows + entry.num_prompt_logits
            sampled[entry.sequence_id] = []
        num_rows += entry.num_logits
    num_drafts = {entry.sequence_id: entry.num_drafts for entry in batch.sequences}
    while rows:
        picked = logits if len(rows) == logits.shape[0] else logits[list(rows.values())]
        for (sequence_id, row), token in zip(
            list(rows.items()), sample(picked, [states[sequence_id] for sequence_id in rows]), strict=True
        ):
            position = len(sampled[sequence_id])
            sampled[sequence_id].append(token)
            is_over = token.grammar_done or token.error is not None or position == num_drafts[sequence_id]
            if is_over or drafts[sequence_id][position] != token.token_id:
                del rows[sequence_id]
            else:
                rows[sequence_id] = row + 1
    return sampled
