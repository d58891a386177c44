"""RMSNorm over the last axis; the weight may be one vector or one per head."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..device.base import DeviceAdapter


@dataclass(frozen=True, slots=True)
class RMSNorm:
    weight: torch.Tensor
    eps: float
    device: DeviceAdapter

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.device.rms_norm(x, self.weight, self.eps)
