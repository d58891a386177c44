"""Linear: a prepared matrix and the device that multiplies it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..device.base import Operators


@dataclass(frozen=True, slots=True)
class Linear:
    """[T, in] -> [T, out]."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    operators: Operators

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.operators.linear(x, self.weight, self.bias)
