"""The one attention contract: packed tokens, cumulative lengths, block table.

It is the contract of `npu_fused_infer_attention_score` in layout TND: one call covers prefill, prefill behind cached
tokens, decode and mixtures. Query i of a sequence with q queries and k keys sees keys 0 .. k - q + i (causal, aligned
at the right end). Lengths are host integers, because some devices take them as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Size of the KV storage, and its shape: [layers, 2 (key, value), KV heads, blocks, block size, head size].

    Heads are outermost below the layer, so that gathering blocks leaves each head's keys in one piece.
    head_dim: elements that are stored for a head; of int8 more than the model's, see `Int8Rows`.
    """

    num_layers: int
    num_blocks: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_layers, 2, self.num_kv_heads, self.num_blocks, self.block_size, self.head_dim)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.block_size * self.head_dim * self.dtype.itemsize

    @property
    def size_bytes(self) -> int:
        return self.block_bytes * self.num_blocks

    @property
    def kv_dtype(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class AttentionLengths:
    """Host side of a batch of B sequences and T packed tokens.

    query_lengths, kv_lengths: per sequence; kv includes this step's tokens.  block_tables: per sequence, block of
    token t at index t // block_size.  slots: per packed token, its place in the cache: block * block_size + offset.
    """

    query_lengths: Sequence[int]
    kv_lengths: Sequence[int]
    block_tables: Sequence[Sequence[int]]
    slots: Sequence[int]
    block_size: int


class AttentionBackend(Protocol):
    """`plan` runs once per step and window and may build any device arrays; `attend` runs once per layer with what it
    returned."""

    def plan(self, lengths: AttentionLengths, window: int = 0) -> Any:
        """Device arrays of a step. window: how many keys back a query sees, its own counted; 0 = all of them."""

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kv: torch.Tensor, plan: Any, scale: float
    ) -> torch.Tensor:
        """Store key and value [T, KV heads, D] at their slots in this layer's `kv`, then attend.

        query [T, heads, D] -> [T, heads, D]; `kv` is one layer of KVLayout.shape.
        """
