"""SelfAttention: projections, optional norms, rotary embedding, paged attention, output projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..attention.base import AttentionBackend
from ..device.base import DeviceAdapter
from ..rtc.storage import KVStorage
from .linear import Linear
from .norm import RMSNorm

if TYPE_CHECKING:
    from ..models.weights import Weights


@dataclass(frozen=True, slots=True)
class ForwardContext:
    """What a step gives every layer. cos, sin: [T, 1, D] at the tokens' positions."""

    cos: torch.Tensor
    sin: torch.Tensor
    attention: AttentionBackend
    attention_plan: Any
    storage: KVStorage


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Grouped-query attention of one layer. T packed tokens, H query heads, K KV heads, D head size."""

    layer_index: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv: Linear
    output: Linear
    query_norm: RMSNorm | None
    key_norm: RMSNorm | None
    device: DeviceAdapter

    @classmethod
    def load(
        cls, weights: Weights, index: int, *, qkv_bias: bool, output_bias: bool, qk_norm: bool = False
    ) -> SelfAttention:
        config = weights.config
        q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        sizes = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        return cls(
            layer_index=index,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            qkv=weights.fused_linear(sizes, config.hidden_size, bias=qkv_bias),
            output=weights.linear("o_proj", q_size, config.hidden_size, bias=output_bias),
            query_norm=weights.norm("q_norm", config.head_dim) if qk_norm else None,
            key_norm=weights.norm("k_norm", config.head_dim) if qk_norm else None,
            device=weights.device,
        )

    def __call__(self, x: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """[T, d] -> [T, d]."""
        heads = self.qkv(x).view(x.shape[0], -1, self.head_dim)
        query, key, value = torch.split(heads, [self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query = self.device.rotate(query, context.cos, context.sin)
        key = self.device.rotate(key, context.cos, context.sin)
        attended = context.attention.attend(
            query,
            key,
            value,
            context.storage.layer(self.layer_index),
            context.attention_plan,
            scale=self.head_dim**-0.5,
        )
        return self.output(attended.flatten(1))
