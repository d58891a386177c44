"""CpuOperators: the operators of models in torch, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F

from ...anonymous_memory import anonymous_memory
from ...attention.base import AttentionBackend, KVLayout
from ...attention.cache_rows import Int8Rows, PlainRows
from ...attention.torch_paged import TorchPagedAttention


class CpuOperators:
    """See Operators."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")

    def prepare_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def to_device(self, values: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype)

    def allocate_kv(self, layout: KVLayout) -> torch.Tensor:
        # Takes memory only where it is written, unlike torch.zeros.
        pages = anonymous_memory(layout.size_bytes, f"{layout.num_blocks} KV blocks")
        return torch.frombuffer(pages, dtype=layout.dtype).view(layout.shape)

    def attention_backend(self, layout: KVLayout, head_dim: int) -> AttentionBackend:
        return TorchPagedAttention(Int8Rows(head_dim) if layout.dtype is torch.int8 else PlainRows(layout.dtype))

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        # For small models the number of operations is the cost: in place, and no casts where there is nothing to cast.
        wide = x if x.dtype is torch.float32 else x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = torch.addcmul(_scalar(eps), norm, norm, value=1 / x.shape[-1]).rsqrt_()
        return (wide * scale).to(x.dtype).mul_(weight)

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        if cos.shape[-1] < x.shape[-1]:
            turning, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
            return torch.cat((self.rotate(turning, cos, sin), rest), dim=-1)
        first, second = x.chunk(2, dim=-1)
        return (x * cos).addcmul_(torch.cat((-second, first), dim=-1), sin)

    def silu_and_mul(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x, weight, bias)


@cache
def _scalar(value: float) -> torch.Tensor:
    return torch.tensor(value)
