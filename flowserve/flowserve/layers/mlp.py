"""GatedMLP: down(silu(gate(x)) * up(x)), gate and up as one product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..device.base import Operators


@dataclass(frozen=True, slots=True)
class GatedMLP:
    gate_up: Callable[[torch.Tensor], torch.Tensor]
    down: Callable[[torch.Tensor], torch.Tensor]
    operators: Operators

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.operators.silu_and_mul(self.gate_up(x)))
