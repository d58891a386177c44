"""Paged attention in plain torch: the reference, and the back end of the CPU.

Sequences with one query are decoded together: their blocks are gathered once per group of similar length and all heads
of all sequences go through two batched matrix products. Longer chunks go one by one through torch's fused attention.
Blocks that are neighbours in the cache are read in place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .base import AttentionLengths
from .cache_rows import CacheRows, PlainRows


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Blocks to read: a range of neighbours, or an index [n]."""

    start: int
    count: int
    index: torch.Tensor | None

    def read(self, cache: torch.Tensor) -> torch.Tensor:
        """[heads, blocks, block size, D] -> [heads, n, block size, D], a view where possible."""
        if self.index is None:
            return cache[:, self.start : self.start + self.count]
        return cache.index_select(1, self.index)


@dataclass(frozen=True, slots=True)
class _DecodeMember:
    """A sequence with one query, at packed token `row`: of the keys in `table` it sees [unseen, num_keys)."""

    row: int
    table: Sequence[int]
    num_keys: int
    unseen: int


@dataclass(frozen=True, slots=True)
class _DecodeGroup:
    """Sequences with one query and similar numbers of keys. rows [B]: packed tokens; blocks: B * n, padded."""

    rows: torch.Tensor
    blocks: _Blocks
    num_sequences: int
    bias: torch.Tensor | None  # [B, 1, n * block size]: -inf where a sequence's query sees no key


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Several queries of one sequence at packed tokens [start, end). num_keys: from the first block that is read."""

    start: int
    end: int
    num_keys: int
    blocks: _Blocks
    mask: torch.Tensor | None  # [queries, keys] of bool; None = square causal


@dataclass(frozen=True, slots=True)
class _Plan:
    slots: torch.Tensor
    decode: list[_DecodeGroup]
    chunks: list[_Chunk]


class TorchPagedAttention:
    """See AttentionBackend. rows: how the cache holds keys and values."""

    def __init__(self, rows: CacheRows | None = None) -> None:
        self._rows = rows or PlainRows()

    def plan(self, lengths: AttentionLengths, window: int = 0) -> _Plan:
        size = lengths.block_size
        chunks: list[_Chunk] = []
        groups: dict[int, list[_DecodeMember]] = defaultdict(list)
        start = 0
        for num_queries, kv_length, table in zip(
            lengths.query_lengths, lengths.kv_lengths, lengths.block_tables, strict=True
        ):
            unseen = max(0, kv_length - num_queries + 1 - window) if window else 0  # by the first query
            table = table[unseen // size : -(-kv_length // size)]
            num_keys, unseen = kv_length - unseen // size * size, unseen % size
            if num_queries == 1:  # powers of two: padding at most doubles what is read
                groups[(len(table) - 1).bit_length()].append(_DecodeMember(start, table, num_keys, unseen))
            else:
                is_square = num_queries == kv_length and not 0 < window < kv_length
                mask = None if is_square else _causal_mask(num_queries, num_keys, window)
                chunks.append(_Chunk(start, start + num_queries, num_keys, _blocks(table), mask))
            start += num_queries
        return _Plan(
            slots=torch.tensor(lengths.slots, dtype=torch.int64),
            decode=[_decode_group(members, size) for members in groups.values()],
            chunks=chunks,
        )

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kv: torch.Tensor, plan: _Plan, scale: float
    ) -> torch.Tensor:
        keys, values = kv[0], kv[1]
        keys.flatten(1, 2).index_copy_(1, plan.slots, self._rows.store(key).transpose(0, 1))
        values.flatten(1, 2).index_copy_(1, plan.slots, self._rows.store(value).transpose(0, 1))
        if len(plan.decode) == 1 and not plan.chunks:
            return _decode(query, *self._read(kv, plan.decode[0].blocks, query.dtype), plan.decode[0], scale)
        output = torch.empty_like(query)
        for group in plan.decode:
            key, value = self._read(kv, group.blocks, query.dtype)
            output[group.rows] = _decode(query[group.rows], key, value, group, scale)
        for chunk in plan.chunks:
            key, value = self._read(kv, chunk.blocks, query.dtype)
            output[chunk.start : chunk.end] = _prefill(query[chunk.start : chunk.end], key, value, chunk, scale)
        return output

    def _read(self, kv: torch.Tensor, blocks: _Blocks, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of some blocks, each [KV heads, n, block size, D]."""
        return self._rows.load(blocks.read(kv[0]), dtype), self._rows.load(blocks.read(kv[1]), dtype)


def _decode(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: _DecodeGroup, scale: float
) -> torch.Tensor:
    """query [B, H, D] -> [B, H, D]. The H / KV query heads that share a KV head are the rows of one product."""
    num_kv_heads, head_dim = key.shape[0], key.shape[-1]
    batch = num_kv_heads * group.num_sequences
    rows = query.view(group.num_sequences, num_kv_heads, -1, head_dim).transpose(0, 1).reshape(batch, -1, head_dim)
    key, value = key.reshape(batch, -1, head_dim), value.reshape(batch, -1, head_dim)
    scores = torch.bmm(rows * scale, key.transpose(1, 2)).float()
    if group.bias is not None:
        scores = (scores.view(num_kv_heads, group.num_sequences, -1, key.shape[1]) + group.bias).view_as(scores)
    output = torch.bmm(torch.softmax(scores, dim=-1).to(value.dtype), value)
    return output.view(num_kv_heads, group.num_sequences, -1, head_dim).transpose(0, 1).reshape(query.shape)


def _prefill(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, chunk: _Chunk, scale: float) -> torch.Tensor:
    """query [n, H, D] -> [n, H, D], with KV heads as the batch and the query heads that share one as its heads."""
    num_kv_heads, head_dim = key.shape[0], key.shape[-1]
    rows = query.transpose(0, 1).view(num_kv_heads, -1, query.shape[0], head_dim)
    expanded = (num_kv_heads, rows.shape[1], chunk.num_keys, head_dim)
    key = key.flatten(1, 2)[:, None, : chunk.num_keys].expand(expanded)
    value = value.flatten(1, 2)[:, None, : chunk.num_keys].expand(expanded)
    output = F.scaled_dot_product_attention(
        rows, key, value, attn_mask=chunk.mask, is_causal=chunk.mask is None, scale=scale
    )
    return output.flatten(0, 1).transpose(0, 1)


def _decode_group(members: list[_DecodeMember], block_size: int) -> _DecodeGroup:
    longest = max(len(member.table) for member in members)
    padded = [member.table[min(i, len(member.table) - 1)] for member in members for i in range(longest)]
    places, bias = longest * block_size, None
    if any(member.unseen or member.num_keys < places for member in members):
        place = torch.arange(places)
        ends = torch.tensor([[member.num_keys] for member in members])
        hidden = place >= ends
        if any(member.unseen for member in members):
            hidden |= place < torch.tensor([[member.unseen] for member in members])
        bias = torch.zeros(len(members), places).masked_fill_(hidden, float("-inf"))[:, None]
    rows = torch.tensor([member.row for member in members])
    return _DecodeGroup(rows, _blocks(padded), len(members), bias)


def _blocks(table: Sequence[int]) -> _Blocks:
    neighbours = all(block == table[0] + offset for offset, block in enumerate(table))
    return _Blocks(table[0], len(table), None if neighbours else torch.tensor(table))


def _causal_mask(num_queries: int, num_keys: int, window: int) -> torch.Tensor:
    """[num_queries, num_keys] of bool, aligned at the right end."""
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(diagonal=num_keys - num_queries)
    return mask.triu(diagonal=num_keys - num_queries - window + 1) if window else mask
