"""SelfAttention: projections, optional norms, rotary embedding, paged attention, output projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..attention.base import AttentionBackend
from ..device.base import Operators
from ..rtc.storage import KVStorage
from .norm import RMSNorm


@dataclass(frozen=True, slots=True)
class ForwardContext:
    """What a step gives every layer.

    cos, sin: [T, 1, rotary dimensions] at the tokens' positions.  attention_plans: by the layers' windows.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    attention: AttentionBackend
    attention_plans: Mapping[int, Any]
    storage: KVStorage


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Grouped-query attention of one layer. T packed tokens, H query heads, K KV heads, D head size."""

    layer_index: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int
    qkv: Callable[[torch.Tensor], torch.Tensor]
    output: Callable[[torch.Tensor], torch.Tensor]
    qk_norm: RMSNorm | None
    operators: Operators

    def __call__(self, x: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """[T, d] -> [T, d]."""
        heads = self.qkv(x).view(x.shape[0], -1, self.head_dim)
        num_rotated = self.num_heads + self.num_kv_heads
        query_key, value = heads[:, :num_rotated], heads[:, num_rotated:]
        if self.qk_norm is not None:
            query_key = self.qk_norm(query_key)
        query_key = self.operators.rotate(query_key, context.cos, context.sin)
        attended = context.attention.attend(
            query_key[:, : self.num_heads],
            query_key[:, self.num_heads :],
            value,
            context.storage.layer(self.layer_index),
            context.attention_plans[self.window],
            scale=self.head_dim**-0.5,
        )
        return self.output(attended.flatten(1))
