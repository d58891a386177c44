"""Sampler: logits of many sequences in, one token each out.

A draw depends on the sequence's seed and the position of the token, on nothing else: no generator carries state, so
the same seed gives the same tokens in any batch, after preemption, and when a sequence is resumed elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..outputs import TokenLogprobs
from .drawing import Row, draw
from .logprobs import token_logprobs
from .sampler_state import SamplerState

_log = logging.getLogger(__name__)

Rows = NDArray[np.float32]

NO_TOKEN = "no token may come next: the constraints of this request forbid all that the model knows"
NO_NUMBERS = "the model's logits are no numbers (NaN): its weights are broken or too large for the dtype"
"""Also where one of them alone is none: whatever made it touches the others too."""


class SampledToken(NamedTuple):
    """grammar_done: the output is complete and the token, if it is an end token, is not part of it.

    error: no token could be chosen; the token is meaningless.  is_request_fault: what was asked for allows none.
    prompt_logprobs, hidden: with the first token of a sequence that asked for them.
    """

    token_id: int
    logprobs: TokenLogprobs | None = None
    grammar_done: bool = False
    error: str | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    is_request_fault: bool = False
    hidden: list[float] | None = None


def sample(
    logits: torch.Tensor, states: Sequence[SamplerState], best: Sequence[int] | None = None
) -> list[SampledToken]:
    """logits [n, V] float32, one row per state; overwritten. Advances grammars and states by one token.

    best: see `most_likely`, where somebody has looked already.
    """
    return sample_rows(on_host(logits), range(len(states)), states, best)


def on_host(logits: torch.Tensor) -> Rows:
    """The same numbers for numpy, whose operations on one row take a tenth of torch's time."""
    rows: Rows = logits.cpu().numpy()
    return rows


def sample_rows(
    logits: Rows, rows: Sequence[int], states: Sequence[SamplerState], best: Sequence[int] | None = None
) -> list[SampledToken]:
    """The same for some rows of logits [n, V], one per state. `best` is for all n rows."""
    sampled = []
    for row, state in zip(rows, states, strict=True):
        token_id = _most_likely(logits[row]) if best is None else best[row]
        if token_id < 0:
            sampled.append(SampledToken(0, error=NO_NUMBERS))
        else:
            sampled.append(_accept_plain(state, token_id) if state.is_plain else _sample_alone(logits[row], state))
    return sampled


def most_likely(logits: Rows) -> list[int]:
    """The token with the largest logit of each row [n, V], as `StepLogits.best`."""
    return [_most_likely(row) for row in logits]


def _most_likely(logits: Row) -> int:
    """-1 for a row with a NaN, or with nothing above -inf."""
    best = int(logits.argmax())  # the first NaN, where there is one
    return best if logits[best] > -np.inf else -1


def _accept_plain(state: SamplerState, token_id: int) -> SampledToken:
    state.append(token_id)
    return SampledToken(token_id, prompt_logprobs=state.take_prompt_logprobs())


def _sample_alone(logits: Row, state: SamplerState) -> SampledToken:
    """A sequence whose wishes break the sampler ends alone, and not the step of all."""
    try:
        return _sample_one(logits, state)
    except Exception as error:
        _log.exception("a token could not be sampled")
        return SampledToken(0, error=f"no token could be sampled: {type(error).__name__}: {error}")


def _sample_one(logits: Row, state: SamplerState) -> SampledToken:
    """A row [V] of a sequence that asks for more than the most likely token; overwritten."""
    grammar = state.grammar
    if grammar is not None and grammar.error is not None:
        return SampledToken(0, error=grammar.error, is_request_fault=True)
    raw = logits.copy() if state.params.logprobs is not None else None
    for constraint in state.constraints:
        constraint.apply(logits)
    token_id = _choose(logits, state)
    if token_id < 0:
        is_constrained = grammar is not None or len(state.constraints) > 0
        return SampledToken(0, error=NO_TOKEN, is_request_fault=is_constrained)
    state.append(token_id)
    details = None
    if raw is not None and state.params.logprobs is not None:
        details = token_logprobs(raw, token_id, state.params.logprobs)
    if grammar is None:
        return SampledToken(token_id, details, prompt_logprobs=state.take_prompt_logprobs())
    grammar.accept(token_id)
    error = grammar.error
    return SampledToken(
        token_id, details, grammar.is_done, error, state.take_prompt_logprobs(), is_request_fault=error is not None
    )


def _choose(logits: Row, state: SamplerState) -> int:
    """The next token, -1 where there is none."""
    grammar = state.grammar
    if not state.params.is_greedy:
        if grammar is not None:
            grammar.mask(logits)
        return draw(logits, state.params, uniform(state.seed, len(state.tokens)))
    best = _most_likely(logits)
    if grammar is not None and not grammar.allows(best):  # most often it does, and the mask is not needed
        grammar.mask(logits)
        best = _most_likely(logits)
    return best


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
