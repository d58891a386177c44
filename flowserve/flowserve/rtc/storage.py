"""KVStorage: the tensors behind the blocks, on one worker (the RTC executor of DeepServe 2.7)."""

from __future__ import annotations

import torch

from ..attention.base import KVLayout
from ..device.base import DeviceAdapter


class KVStorage:
    """Keys and values of all layers; block b of any layer belongs to block b of the master's tables."""

    def __init__(self, layout: KVLayout, device: DeviceAdapter) -> None:
        self.layout = layout
        self._tensor = device.allocate_kv(layout)
        self._layers = list(self._tensor.unbind(0))

    def layer(self, index: int) -> torch.Tensor:
        """One layer, [2, KV heads, blocks, block size, head size]."""
        return self._layers[index]

    @property
    def block_bytes(self) -> int:
        return self.layout.block_bytes

    def read_block(self, block: int, buffer: memoryview) -> None:
        """Copy a block of all layers to a buffer of `block_bytes` bytes."""
        self._as_tensor(buffer).copy_(self._tensor[:, :, :, block])

    def write_block(self, block: int, buffer: memoryview) -> None:
        """Fill a block of all layers from such a buffer."""
        self._tensor[:, :, :, block] = self._as_tensor(buffer)

    def copy_block(self, source: int, target: int) -> None:
        """Make block `target` equal to block `source`."""
        self._tensor[:, :, :, target] = self._tensor[:, :, :, source]

    def _as_tensor(self, buffer: memoryview) -> torch.Tensor:
        layers, pair, heads, _, block_size, head_dim = self.layout.shape
        return torch.frombuffer(buffer, dtype=self.layout.dtype).view(layers, pair, heads, block_size, head_dim)
