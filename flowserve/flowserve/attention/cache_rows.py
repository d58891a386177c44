"""How a key or value of one token and head lies in the cache: as it is, or as whole numbers with a scale."""

from __future__ import annotations

from typing import Protocol

import torch

_SCALE_BYTES = 4


class CacheRows(Protocol):
    """W elements are stored for a head of size D."""

    def store(self, rows: torch.Tensor) -> torch.Tensor:
        """[T, KV heads, D] -> [T, KV heads, W] of the cache's dtype."""

    def load(self, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """[..., W] -> [..., D] of `dtype`."""


class PlainRows:
    """W = D, in a dtype of floats; None = that of the rows."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self._dtype = dtype

    def store(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if self._dtype is None else rows.to(self._dtype)

    def load(self, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return stored.to(dtype)


class Int8Rows:
    """D whole numbers of -127 .. 127, zeros up to a multiple of four, and a float32 scale in the last four bytes."""

    def __init__(self, head_dim: int) -> None:
        self._head_dim = head_dim
        self.width = -(-head_dim // _SCALE_BYTES) * _SCALE_BYTES + _SCALE_BYTES

    def store(self, rows: torch.Tensor) -> torch.Tensor:
        scales = (rows.abs().amax(dim=-1, keepdim=True).float() / 127).clamp_min_(1e-30)
        stored = torch.zeros((*rows.shape[:-1], self.width), dtype=torch.int8)
        stored[..., : self._head_dim] = (rows / scales).round_()
        stored[..., -_SCALE_BYTES:].view(torch.float32).copy_(scales)
        return stored

    def load(self, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        scales = stored[..., -_SCALE_BYTES:].view(torch.float32)
        return torch.mul(stored[..., : self._head_dim], scales).to(dtype)
