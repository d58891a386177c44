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
    qk_norm: RMSNorm | None
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
            qk_norm=_joined_norm(weights) if qk_norm else None,
            device=weights.device,
        )

    def __call__(self, x: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """[T, d] -> [T, d]."""
        heads = self.qkv(x).view(x.shape[0], -1, self.head_dim)
        num_rotated = self.num_heads + self.num_kv_heads
        query_key, value = heads[:, :num_rotated], heads[:, num_rotated:]
        if self.qk_norm is not None:
            query_key = self.qk_norm(query_key)
        query_key = self.device.rotate(query_key, context.cos, context.sin)
        attended = context.attention.attend(
            query_key[:, : self.num_heads],
            query_key[:, self.num_heads :],
            value,
            context.storage.layer(self.layer_index),
            context.attention_plan,
            scale=self.head_dim**-0.5,
        )
        return self.output(attended.flatten(1))


def _joined_norm(weights: Weights) -> RMSNorm:
    """The norms of queries and keys as one over all their heads, weight [H + K, D]."""
    config = weights.config
    query = weights.tensor("q_norm.weight", config.head_dim).expand(config.num_heads, -1)
    key = weights.tensor("k_norm.weight", config.head_dim).expand(config.num_kv_heads, -1)
    return RMSNorm(torch.cat((query, key)), config.rms_norm_eps, weights.device)
