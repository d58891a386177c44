"""KVStorage: the tensors behind the blocks, on one worker (the RTC executor of DeepServe 2.7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..attention.base import KVLayout
from ..device.base import Operators


class KVStorage:
    """Keys and values of all layers; block b of any layer belongs to block b of the master's tables."""

    def __init__(self, layout: KVLayout, operators: Operators) -> None:
        self.layout = layout
        self._tensor = operators.allocate_kv(layout)
        self._layers = list(self._tensor.unbind(0))
        # Blocks are moved beside running steps; numpy copies on the one thread that asks, torch would start others.
        self._bytes = self._tensor.view(torch.uint8).numpy()

    def layer(self, index: int) -> torch.Tensor:
        """One layer, [2, KV heads, blocks, block size, head size]."""
        return self._layers[index]

    @property
    def block_bytes(self) -> int:
        return self.layout.block_bytes

    def read_block(self, block: int, buffer: memoryview) -> None:
        """Copy a block of all layers to a buffer of `block_bytes` bytes."""
        np.copyto(self._shaped(buffer), self._bytes[:, :, :, block])

    def write_block(self, block: int, buffer: memoryview) -> None:
        """Fill a block of all layers from such a buffer."""
        np.copyto(self._bytes[:, :, :, block], self._shaped(buffer))

    def copy_block(self, source: int, target: int) -> None:
        """Make block `target` equal to block `source`."""
        np.copyto(self._bytes[:, :, :, target], self._bytes[:, :, :, source])

    def clear_block(self, block: int) -> None:
        """Zeros in all layers: what it held for an earlier sequence may be NaN, which no mask hides."""
        self._bytes[:, :, :, block] = 0

    def _shaped(self, buffer: memoryview) -> np.ndarray[Any, Any]:
        layers, pair, heads, _, block_size, row_bytes = self._bytes.shape
        return np.frombuffer(buffer, dtype=np.uint8).reshape(layers, pair, heads, block_size, row_bytes)
