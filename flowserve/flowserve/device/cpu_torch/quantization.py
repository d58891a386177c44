"""Weights and activations as whole numbers: a scale per output channel, per token, or per group of weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

GROUP = 32
"""Weights of a row that share a scale at 4 bits."""

ACTIVATION_LEVELS = 127
WEIGHT_LEVELS = 127
CAREFUL_WEIGHT_LEVELS = 64
"""Processors without 8-bit dot products add pairs of 8-bit products in 16 bits. With activations of 0 .. 255 weights
up to 64 are the largest whose pairs fit; 7 bits for activations instead would cost more where these have outliers.
"""


class Weight(Protocol):
    """What is packed: a `Parameter`, or in the self-test random numbers."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def load_finite(self, dtype: torch.dtype) -> torch.Tensor: ...

    def finite_pieces(self, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]: ...


def quantize_rows(weight: Weight, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [N, K] within +-levels and float32 scales [N]. Raises CheckpointError for NaN or infinity."""
    values = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0], dtype=torch.float32)
    for start, rows in weight.finite_pieces(torch.float32):
        largest = rows.abs().amax(dim=1)
        end = start + len(rows)
        scales[start:end] = largest / levels
        values[start:end] = rows.mul_((levels / largest.clamp_min_(1e-30))[:, None]).round_()
    return values, scales


def quantize_groups(weight: Weight) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [N, K] of 0 .. 15 and bfloat16 scales [N, K / GROUP]: weight = (value - 8) * scale; K rounded up to groups.

    The scale's sign is such that the group's largest weight is its value 0, the one that is 8 steps from zero.
    Raises CheckpointError for NaN or infinity.
    """
    num_rows, num_columns = weight.shape
    num_groups = -(-num_columns // GROUP)
    values = torch.empty((num_rows, num_groups * GROUP), dtype=torch.uint8)
    scales = torch.empty((num_rows, num_groups), dtype=torch.bfloat16)
    for start, rows in weight.finite_pieces(torch.float32):
        padded = torch.nn.functional.pad(rows, (0, num_groups * GROUP - num_columns))
        groups = padded.view(len(rows), num_groups, GROUP)
        largest = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))
        scale = (largest / -8).to(torch.bfloat16)
        steps = groups / torch.where(scale == 0, 1, scale).float()
        end = start + len(rows)
        scales[start:end] = scale[:, :, 0]
        values[start:end] = steps.round_().add_(8).clamp_(0, 15).view(len(rows), -1)
    return values, scales


def normalized_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, K] with every row's largest magnitude 1, and those magnitudes [T, 1]. Each row goes by itself alone."""
    largest = x.abs().amax(dim=-1, keepdim=True).clamp_min_(1e-30)
    return x / largest, largest
