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
