"""Linear: a prepared matrix and the device that multiplies it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..device.base import DeviceAdapter


@dataclass(frozen=True, slots=True)
class Linear:
    """[T, in] -> [T, out]."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    device: DeviceAdapter

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.device.linear(x, self.weight, self.bias)
