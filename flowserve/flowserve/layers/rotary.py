"""Rotary position embedding: angles per position, computed once for the whole context."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from ..models.rope_config import RopeConfig


class RotaryTable:
    """cos, sin: float32 [positions, rotary_dim / 2] of positions 0 .. max_positions - 1, whatever the rope kind.

    Halves convention: dimension i of a head turns with dimension i + rotary_dim / 2; those from rotary_dim on stay.
    As long as the engine's context, not the model's: for long-context models the full table takes hundreds of MB.
    """

    def __init__(self, rope: RopeConfig, max_positions: int) -> None:
        self.rotary_dim = rope.rotary_dim
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), inverse_frequencies(rope, max_positions))
        self.cos, self.sin = angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor


@lru_cache(maxsize=1)
def rotary_table(rope: RopeConfig, max_positions: int) -> RotaryTable:
    """The last table is kept: engines that are forked from one template share it, and a waking one has it at once."""
    return RotaryTable(rope, max_positions)


def inverse_frequencies(rope: RopeConfig, max_positions: int) -> torch.Tensor:
    """Radians per position [rotary_dim / 2], scaled as config.json asks.

    max_positions: the engine's context. Of longrope's two sets it takes the one for that length, whatever the length
    of a sequence: keys in the cache cannot change theirs (so does vLLM; transformers computes all of them anew).
    """
    pairs = torch.arange(0, rope.exponent_dim, 2, dtype=torch.int64).float() / rope.exponent_dim
    frequencies = 1.0 / (rope.theta**pairs)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _llama3_frequencies(frequencies, rope)
    if rope.kind == "yarn":
        return _yarn_frequencies(frequencies, rope)
    if rope.kind == "longrope":
        is_long = max_positions > rope.original_max_positions
        return frequencies / torch.tensor(rope.long_factors if is_long else rope.short_factors)
    return frequencies


def _llama3_frequencies(frequencies: torch.Tensor, rope: RopeConfig) -> torch.Tensor:
    """Long wavelengths are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    turns = rope.original_max_positions * frequencies / (2 * math.pi)  # of each frequency over the old context
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return (1.0 - blend) * frequencies / rope.factor + blend * frequencies


def _yarn_frequencies(frequencies: torch.Tensor, rope: RopeConfig) -> torch.Tensor:
    """Pairs that turn more than beta_fast times over the old context are kept, less than beta_slow stretched, those
    between blended by their number (YaRN, arXiv 2309.00071)."""

    def pair_with_turns(turns: float) -> float:
        wavelength = rope.original_max_positions / (turns * 2 * math.pi)
        return rope.exponent_dim * math.log(wavelength) / (2 * math.log(rope.theta))

    low, high = pair_with_turns(rope.beta_fast), pair_with_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.exponent_dim - 1)
    stretched = (torch.arange(len(frequencies), dtype=torch.float32) - low) / (high - low or 0.001)
    stretched = stretched.clamp(0.0, 1.0)
    return stretched * frequencies / rope.factor + (1.0 - stretched) * frequencies
