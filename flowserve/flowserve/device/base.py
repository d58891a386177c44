"""The device adapter: all that differs between devices, in about fifteen methods.

`torch.accelerator` is not enough: memory queries, synchronisation and graphs fail on several out-of-tree devices, so
each device answers for itself. A vendor package is imported by its adapter when that is built, never before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..attention.base import AttentionBackend, KVLayout

if TYPE_CHECKING:
    from ..models.plan import DecoderPlan


class DeviceAdapter(Protocol):
    """Shapes: T packed tokens, H query heads, D head size, d hidden size, V vocabulary."""

    name: str
    torch_device: torch.device
    distributed_backend: str
    default_block_size: int

    def start(self, num_threads: int | None, num_parameters: int) -> None:
        """Take hold of the device in this process; the first thing an engine does, never done at import.

        num_threads: None lets the device choose, by the size of the model.
        """

    def resolve_dtype(self, name: str, checkpoint_dtype: torch.dtype) -> torch.dtype:
        """The dtype to compute in for "auto", "float32" or "bfloat16"; raises InvalidConfigError if it cannot."""

    def load(self, plan: DecoderPlan, dtype: torch.dtype) -> Any:
        """The weights of a plan as this device computes with them. On one thread, so that a fork may follow.

        Raises CheckpointError for a tensor that holds NaN or infinity.
        """

    def free_memory_bytes(self) -> int:
        """Memory that tensors could take now."""

    def synchronize(self) -> None:
        """Wait until everything queued on the device is done."""

    def prepare_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """A loaded matrix [out, in] as the device multiplies it best (packing, layout casts)."""

    def to_device(self, values: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Host integers as a 1-d tensor on the device."""

    def allocate_kv(self, layout: KVLayout) -> torch.Tensor:
        """Zeroed KV storage of all layers, in the shape the attention back end wants."""

    def attention_backend(self) -> AttentionBackend:
        """The back end of the attention contract on this device."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Root-mean-square norm over the last axis, computed in float32."""

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary embedding of x [T, H, D] with cos, sin [T, 1, R], halves convention; dimensions from R on stay."""

    def silu_and_mul(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up of x = [gate, up] over the last axis."""

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [T, in] times a prepared weight, plus bias."""
