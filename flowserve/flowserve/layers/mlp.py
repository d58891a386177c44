"""GatedMLP: down(silu(gate(x)) * up(x)), gate and up as one product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..device.base import DeviceAdapter


@dataclass(frozen=True, slots=True)
class GatedMLP:
    gate_up: Callable[[torch.Tensor], torch.Tensor]
    down: Callable[[torch.Tensor], torch.Tensor]
    device: DeviceAdapter

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.device.silu_and_mul(self.gate_up(x)))
