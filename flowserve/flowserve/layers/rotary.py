"""Rotary position embedding: angles per position, computed once for the whole context."""

from __future__ import annotations

import math

import torch

from ..models.config import RopeConfig


class RotaryTable:
    """cos and sin of positions 0 .. max_positions - 1, [positions, head size], halves convention.

    As long as the engine's context, not the model's: for long-context models the full table takes hundreds of MB.
    """

    def __init__(
        self, rope: RopeConfig, head_dim: int, max_positions: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), inverse_frequencies(rope, head_dim))
        angles = torch.cat((angles, angles), dim=-1)
        self._cos = angles.cos().to(device, dtype)
        self._sin = angles.sin().to(device, dtype)

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [T, 1, head size] for positions [T]."""
        return self._cos[positions][:, None], self._sin[positions][:, None]


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
