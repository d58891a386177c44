"""Sampler: logits of many sequences in, one token each out.

A draw depends on the sequence's seed and the position of the token, on nothing else: no generator carries state, so
the same seed gives the same tokens in any batch, after preemption, and when a sequence is resumed elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..outputs import TokenLogprobs
from ..sampling_params import SamplingParams
from ..structured import GrammarMatcher


@dataclass(slots=True)
class SamplerState:
    """One sequence as the sampler knows it. `tokens`: prompt and output; `grammar`: None = unconstrained."""

    params: SamplingParams
    seed: int
    tokens: list[int]
    num_prompt_tokens: int
    end_token_ids: tuple[int, ...]
    grammar: GrammarMatcher | None = None
    output_counts: Counter[int] = field(default_factory=Counter)
    seen_tokens: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.params.has_penalties:
            self.seen_tokens.update(self.tokens)
            self.output_counts.update(self.tokens[self.num_prompt_tokens :])

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    def append(self, token_id: int) -> None:
        self.tokens.append(token_id)
        if self.params.has_penalties:
            self.seen_tokens.add(token_id)
            self.output_counts[token_id] += 1


@dataclass(frozen=True, slots=True)
class SampledToken:
    """grammar_done: the output is complete and the token, if it is an end token, is not part of it.

    error: the grammar could not go on; the token is meaningless.
    """

    token_id: int
    logprobs: TokenLogprobs | None = None
    grammar_done: bool = False
    error: str | None = None


def sample(logits: torch.Tensor, states: Sequence[SamplerState]) -> list[SampledToken]:
    """logits [n, V] float32, one row per state; may be overwritten. Advances grammars and states by one token."""
    reported = _raw_logprobs(logits, states)
    for row, state in enumerate(states):
        _apply_constraints(logits[row], state)
    drawn = logits.argmax(dim=-1).tolist()
    random_rows = [row for row, state in enumerate(states) if not state.params.is_greedy]
    if random_rows:
        chosen = [states[row] for row in random_rows]
        for row, token_id in zip(random_rows, _draw(logits[random_rows], chosen), strict=True):
            drawn[row] = token_id
    return [_accept(state, drawn[row], reported.get(row)) for row, state in enumerate(states)]


def _accept(state: SamplerState, token_id: int, logprobs: torch.Tensor | None) -> SampledToken:
    state.append(token_id)
    details = None
    if logprobs is not None and state.params.logprobs is not None:
        values, indices = logprobs.topk(min(state.params.logprobs, logprobs.shape[0]))
        top = tuple(zip(indices.tolist(), values.tolist(), strict=True))
        details = TokenLogprobs(token_id, float(logprobs[token_id]), top)
    if state.grammar is None:
        return SampledToken(token_id, details)
    state.grammar.accept(token_id)
    return SampledToken(token_id, details, state.grammar.is_done, state.grammar.error)


def _raw_logprobs(logits: torch.Tensor, states: Sequence[SamplerState]) -> dict[int, torch.Tensor]:
    return {
        row: torch.log_softmax(logits[row], dim=-1)
        for row, state in enumerate(states)
        if state.params.logprobs is not None
    }


def _apply_constraints(logits: torch.Tensor, state: SamplerState) -> None:
    """One row [V], in place: penalties, then the end tokens that come too early, then the grammar's mask."""
    params = state.params
    if params.has_penalties:
        _apply_penalties(logits, state)
    if state.num_output_tokens < params.min_tokens and state.end_token_ids:
        logits[list(state.end_token_ids)] = float("-inf")
    if state.grammar is not None:
        state.grammar.mask(logits)


def _apply_penalties(logits: torch.Tensor, state: SamplerState) -> None:
    params = state.params
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(state.seen_tokens))
        values = logits[seen]
        logits[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if state.output_counts and (params.presence_penalty or params.frequency_penalty):
        tokens = torch.tensor(list(state.output_counts))
        counts = torch.tensor(list(state.output_counts.values()), dtype=logits.dtype)
        logits[tokens] -= params.presence_penalty + params.frequency_penalty * counts


def _draw(logits: torch.Tensor, states: Sequence[SamplerState]) -> list[int]:
    """Temperature, top-k, top-p, min-p, then the inverse of the cumulative distribution in vocabulary order.

    In vocabulary order and float64, rounding that differs with the batch practically never moves a draw.
    """
    temperature = torch.tensor([state.params.temperature for state in states])[:, None]
    probabilities = torch.softmax(logits / temperature.clamp(min=1e-5), dim=-1)
    if any(state.params.top_k > 0 or state.params.top_p < 1.0 or state.params.min_p > 0.0 for state in states):
        probabilities = _truncate(probabilities, [state.params for state in states])
    cumulative = probabilities.double().cumsum(dim=-1)
    draws = [uniform(state.seed, len(state.tokens)) for state in states]
    targets = torch.tensor(draws, dtype=torch.float64)[:, None] * cumulative[:, -1:]
    # The first token whose cumulative probability exceeds the target has a probability above zero.
    picks = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    return [int(pick) for pick in picks.clamp(max=logits.shape[-1] - 1)]


def _truncate(probabilities: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Zero what top-k, top-p or min-p exclude; the most likely token always stays."""
    size = probabilities.shape[-1]
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(size)
    top_k = torch.tensor([p.top_k if p.top_k > 0 else size for p in params])[:, None]
    top_p = torch.tensor([p.top_p for p in params])[:, None]
    min_p = torch.tensor([p.min_p for p in params])[:, None]
    ordered = ordered.masked_fill(ranks >= top_k, 0.0)
    # top-p is a share of what top-k left, as if its probabilities summed to one.
    before = (ordered.cumsum(dim=-1) - ordered) / ordered.sum(dim=-1, keepdim=True)
    excluded = ((before >= top_p) & (top_p < 1.0)) | (ordered < min_p * ordered[:, :1])
    excluded[:, 0] = False
    return torch.zeros_like(probabilities).scatter_(1, order, ordered.masked_fill(excluded, 0.0))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on both and looks random (two rounds of SplitMix64)."""
    return (_mix(_mix(seed & _MASK) ^ (position & _MASK)) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


_MASK = (1 << 64) - 1
