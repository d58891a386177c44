"""Rotary position embedding: angles per position, computed once for the whole context."""

from __future__ import annotations

import math

import torch

from ..models.config import ModelConfig, RopeConfig


class RotaryTable:
    """cos, sin: float32 [positions, rotary_dim / 2] of positions 0 .. max_positions - 1, whatever the rope kind.

    Halves convention: dimension i of a head turns with dimension i + rotary_dim / 2; those from rotary_dim on stay.
    As long as the engine's context, not the model's: for long-context models the full table takes hundreds of MB.
    """

    def __init__(self, config: ModelConfig, max_positions: int) -> None:
        self.rotary_dim = config.head_dim
        frequencies = inverse_frequencies(config.rope, self.rotary_dim)
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), frequencies)
        self.cos, self.sin = angles.cos(), angles.sin()


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """[head size / 2], scaled as config.json asks."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _llama3_frequencies(frequencies, rope)
    return frequencies


def _llama3_frequencies(frequencies: torch.Tensor, rope: RopeConfig) -> torch.Tensor:
    """Long wavelengths are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    turns = rope.original_max_positions * frequencies / (2 * math.pi)  # of each frequency over the old context
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return (1.0 - blend) * frequencies / rope.factor + blend * frequencies
