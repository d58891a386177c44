"""Weights: a checkpoint as layers see it: below a prefix, in the engine's dtype, prepared for the device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..device.base import DeviceAdapter
from ..layers.linear import Linear
from ..layers.norm import RMSNorm
from .checkpoint import Checkpoint
from .config import ModelConfig


@dataclass(frozen=True)
class Weights:
    """Where one module of the model finds its tensors."""

    checkpoint: Checkpoint
    config: ModelConfig
    device: DeviceAdapter
    dtype: torch.dtype
    prefix: str = ""

    def at(self, name: str | int) -> Weights:
        """The same one level down."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        tensor = self.checkpoint.tensor(self.prefix + name, shape)
        return tensor.to(self.device.torch_device, self.dtype)

    def linear(self, name: str, in_size: int, out_size: int, bias: bool = False) -> Linear:
        return self.fused_linear({name: out_size}, in_size, bias)

    def fused_linear(self, out_sizes: dict[str, int], in_size: int, bias: bool = False) -> Linear:
        """Several projections of the same input as one product; their outputs lie side by side, in this order."""
        matrices = [self.tensor(f"{name}.weight", size, in_size) for name, size in out_sizes.items()]
        biases = [self.tensor(f"{name}.bias", size) for name, size in out_sizes.items()] if bias else []
        weight = matrices[0] if len(matrices) == 1 else torch.cat(matrices)
        joined_bias = None if not biases else biases[0] if len(biases) == 1 else torch.cat(biases)
        return Linear(self.device.prepare_weight(weight), joined_bias, self.device)

    def norm(self, name: str, size: int) -> RMSNorm:
        return RMSNorm(self.tensor(f"{name}.weight", size), self.config.rms_norm_eps, self.device)
