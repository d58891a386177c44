"""StepInputs: the arrays one step needs, from the plain integers of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..attention.base import AttentionLengths
from ..scheduling.batch import Batch


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Host side of a step of T packed tokens. logit_rows: packed tokens whose logits are needed, in batch order."""

    token_ids: list[int]
    positions: list[int]
    logit_rows: list[int]
    lengths: AttentionLengths


def build_inputs(batch: Batch, tokens: Mapping[str, list[int]], block_size: int) -> StepInputs:
    """`tokens`: known tokens of each sequence, prompt and output."""
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    logit_rows: list[int] = []
    for entry in batch.sequences:
        token_ids += tokens[entry.sequence_id][entry.start : entry.end]
        positions += range(entry.start, entry.end)
        table = entry.block_table
        slots += [table[t // block_size] * block_size + t % block_size for t in range(entry.start, entry.end)]
        logit_rows += range(len(token_ids) - entry.num_logits, len(token_ids))
    lengths = AttentionLengths(
        query_lengths=[entry.num_tokens for entry in batch.sequences],
        kv_lengths=[entry.end for entry in batch.sequences],
        block_tables=[entry.block_table for entry in batch.sequences],
        slots=slots,
        block_size=block_size,
    )
    return StepInputs(token_ids, positions, logit_rows, lengths)
