"""Sampler: logits of many sequences in, one token each out.

A draw depends on the sequence's seed and the position of the token, on nothing else: no generator carries state, so
the same seed gives the same tokens in any batch, after preemption, and when a sequence is resumed elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..outputs import TokenLogprobs
from .drawing import draw
from .logprobs import token_logprobs
from .sampler_state import SamplerState

NO_TOKEN = "no token may come next: the constraints of this request forbid all that the model knows"
NO_NUMBERS = "the model's logits are no numbers (NaN): its weights are broken or too large for the dtype"


class SampledToken(NamedTuple):
    """grammar_done: the output is complete and the token, if it is an end token, is not part of it.

    error: no token could be chosen; the token is meaningless.
    prompt_logprobs: with the first token of a sequence that asked for them.
    """

    token_id: int
    logprobs: TokenLogprobs | None = None
    grammar_done: bool = False
    error: str | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None


def sample(
    logits: torch.Tensor, states: Sequence[SamplerState], best: Sequence[int] | None = None
) -> list[SampledToken]:
    """logits [n, V] float32, one row per state; may be overwritten. Advances grammars and states by one token.

    best: see `most_likely`, where somebody has looked already.
    """
    return sample_rows(logits, range(len(states)), states, best)


def sample_rows(
    logits: torch.Tensor, rows: Sequence[int], states: Sequence[SamplerState], best: Sequence[int] | None = None
) -> list[SampledToken]:
    """The same for some rows of logits [n, V], one per state. `best` is for all n rows."""
    sampled: dict[int, SampledToken] = {}
    others = [place for place, state in enumerate(states) if not state.is_plain]
    if others:
        picked = logits if len(others) == logits.shape[0] else logits[[rows[place] for place in others]]
        sampled = dict(zip(others, _sample_each(picked, [states[place] for place in others]), strict=True))
        if len(others) == len(states):
            return list(sampled.values())
    if best is None:
        best = most_likely(logits)
    return [
        sampled[place] if place in sampled else _accept_plain(state, best[row])
        for place, (state, row) in enumerate(zip(states, rows, strict=True))
    ]


def most_likely(logits: torch.Tensor) -> list[int]:
    """The token with the largest logit of each row [n, V]; -1 where they are no numbers."""
    values, best = logits.max(dim=-1)
    if bool(values.isnan().any()):
        best = best.masked_fill(values.isnan(), -1)
    tokens: list[int] = best.tolist()
    return tokens


def _accept_plain(state: SamplerState, token_id: int) -> SampledToken:
    if token_id < 0:
        return SampledToken(0, error=NO_NUMBERS)
    state.append(token_id)
    return SampledToken(token_id, prompt_logprobs=state.take_prompt_logprobs())


def _sample_each(logits: torch.Tensor, states: Sequence[SamplerState]) -> list[SampledToken]:
    """Rows [n, V] of sequences that ask for more than the most likely token; overwritten."""
    raw = {row: logits[row].clone() for row, state in enumerate(states) if state.params.logprobs is not None}
    for row, state in enumerate(states):
        for constraint in state.constraints:
            constraint.apply(logits[row])
    drawn = _choose(logits, states)
    return [
        _accept(state, drawn[row], raw.get(row)) if drawn[row] >= 0 else _refuse(state, logits[row])
        for row, state in enumerate(states)
    ]


def _choose(logits: torch.Tensor, states: Sequence[SamplerState]) -> list[int]:
    """The next token of each row, -1 where there is none."""
    drawn = [-1] * len(states)
    random_rows = [row for row, state in enumerate(states) if not state.params.is_greedy]
    greedy_rows = [row for row, state in enumerate(states) if state.params.is_greedy]
    for row, token_id in zip(greedy_rows, most_likely(_rows(logits, greedy_rows)) if greedy_rows else [], strict=True):
        grammar = states[row].grammar
        if grammar is not None and not grammar.allows(token_id):  # most often it does, and the mask is not needed
            grammar.mask(logits[row])
            token_id = most_likely(logits[row : row + 1])[0]
        drawn[row] = -1 if logits[row, token_id] == float("-inf") else token_id
    if random_rows:
        for row in random_rows:
            if (grammar := states[row].grammar) is not None:
                grammar.mask(logits[row])
        chosen = [states[row] for row in random_rows]
        uniforms = [uniform(state.seed, len(state.tokens)) for state in chosen]
        tokens = draw(_rows(logits, random_rows), [state.params for state in chosen], uniforms)
        for row, token_id in zip(random_rows, tokens, strict=True):
            drawn[row] = token_id
    return drawn


def _rows(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    return logits if len(rows) == logits.shape[0] else logits[list(rows)]


def _accept(state: SamplerState, token_id: int, raw: torch.Tensor | None) -> SampledToken:
    grammar = state.grammar
    if grammar is not None and grammar.error is not None:
        return SampledToken(0, error=grammar.error)
    state.append(token_id)
    details = None
    if raw is not None and state.params.logprobs is not None:
        (details,) = token_logprobs(raw[None], [token_id], state.params.logprobs)
    if grammar is None:
        return SampledToken(token_id, details, prompt_logprobs=state.take_prompt_logprobs())
    grammar.accept(token_id)
    return SampledToken(token_id, details, grammar.is_done, grammar.error, state.take_prompt_logprobs())


def _refuse(state: SamplerState, logits: torch.Tensor) -> SampledToken:
    if state.grammar is not None and state.grammar.error is not None:
        return SampledToken(0, error=state.grammar.error)
    return SampledToken(0, error=NO_NUMBERS if bool(logits.isnan().any()) else NO_TOKEN)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on both and looks random (two rounds of SplitMix64)."""
    return (_mix(_mix(seed & _MASK) ^ (position & _MASK)) >> 11) * 2.0**-53


def derived_seed(seed: int, index: int) -> int:
    """The seed of one of several completions of a prompt; the first has the prompt's own."""
    return seed if index == 0 else _mix(_mix(seed & _MASK) ^ _mix(~index & _MASK))


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


_MASK = (1 << 64) - 1
