"""From the logits of a batch to the tokens of its sequences, drafts verified.

A draft is right where it is the very token that the sampler picks at its position. The sampler goes from token to
token exactly as it would without drafts (penalties, grammars and seeds included), so the tokens are the same too; what
is saved is running the model once for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..scheduling.batch import Batch, ScheduledSequence
from .logprobs import prompt_logprobs
from .sampler import Rows, SampledToken, most_likely, on_host, sample_rows
from .sampler_state import SamplerState


def sample_batch(
    batch: Batch,
    logits: torch.Tensor,
    states: Mapping[str, SamplerState],
    best: Sequence[int] | None = None,
) -> dict[str, list[SampledToken]]:
    """logits [n, V] float32 as the batch's entries ask for them; the new tokens of each entry that samples.

    best: see `StepLogits`.
    """
    host = on_host(logits)
    sampled: dict[str, list[SampledToken]] = {}
    rows: dict[str, int] = {}  # of the sequences whose drafts were right so far: the row of their next token
    num_drafts: dict[str, int] = {}
    num_rows = 0
    for entry in batch.sequences:
        state = states[entry.sequence_id]
        if entry.num_prompt_logits:
            _note_prompt(entry, state, host[num_rows : num_rows + entry.num_prompt_logits])
        if entry.samples:
            rows[entry.sequence_id] = num_rows + entry.num_prompt_logits
            num_drafts[entry.sequence_id] = entry.num_drafts
            sampled[entry.sequence_id] = []
        num_rows += entry.num_logits
    if best is None and any(num_drafts.values()):
        best = most_likely(host)  # once for all rounds
    while rows:
        tokens = sample_rows(host, list(rows.values()), [states[sequence_id] for sequence_id in rows], best)
        for (sequence_id, row), token in zip(list(rows.items()), tokens, strict=True):
            position = len(sampled[sequence_id])
            sampled[sequence_id].append(token)
            is_over = token.grammar_done or token.error is not None or position == num_drafts[sequence_id]
            if is_over or states[sequence_id].drafts[position] != token.token_id:
                del rows[sequence_id]
            else:
                rows[sequence_id] = row + 1
    for sequence_id, count in num_drafts.items():
        if count:
            states[sequence_id].learn(count, len(sampled[sequence_id]) - 1)
    return sampled


def add_hidden(
    batch: Batch, hidden: torch.Tensor, states: Mapping[str, SamplerState], sampled: dict[str, list[SampledToken]]
) -> None:
    """hidden [n, d], of the rows that `sample_batch` got: with the first token of each sequence that wants its own."""
    row = 0
    for entry in batch.sequences:
        state = states[entry.sequence_id]
        if state.wants_hidden and entry.samples and state.num_output_tokens <= 1:
            first, *others = sampled[entry.sequence_id]
            values: list[float] = hidden[row + entry.num_prompt_logits].tolist()
            sampled[entry.sequence_id] = [first._replace(hidden=values), *others]
        row += entry.num_logits


def _note_prompt(entry: ScheduledSequence, state: SamplerState, logits: Rows) -> None:
    """Log-probabilities of the prompt tokens that the rows [n, V] predict: few at a time, as rows are wide."""
    num_top = state.params.prompt_logprobs
    if num_top is None or state.prompt_logprobs is None:
        return
    first = entry.end - entry.num_logits + 1
    predicted = state.tokens[first : first + entry.num_prompt_logits]
    state.prompt_logprobs += prompt_logprobs(logits, predicted, num_top)
