"""RMSNorm over the last axis; the weight may be one vector or one per head."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..device.base import Operators


@dataclass(frozen=True, slots=True)
class RMSNorm:
    weight: torch.Tensor
    eps: float
    operators: Operators

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.operators.rms_norm(x, self.weight, self.eps)
