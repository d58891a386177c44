"""The attention contract, against attention written out by hand, on scattered and on neighbouring blocks."""

from __future__ import annotations

import random

import pytest
import torch

from flowserve.attention.base import AttentionLengths, KVLayout
from flowserve.attention.torch_paged import TorchPagedAttention
from flowserve.device.cpu_torch.operators import CpuOperators

BLOCK_SIZE, HEAD_DIM = 4, 16


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int) -> torch.Tensor:
    """query [q, H, D]; key, value [k, KV, D]; query i sees keys 0 .. k - q + i, the last `window` of them if not 0."""
    num_queries, num_heads = query.shape[:2]
    group = num_heads // key.shape[1]
    output = torch.empty_like(query)
    for i in range(num_queries):
        end = key.shape[0] - num_queries + i + 1
        seen = slice(max(0, end - window) if window else 0, end)
        for head in range(num_heads):
            scores = key[seen, head // group] @ query[i, head] * scale
            output[i, head] = torch.softmax(scores, dim=0) @ value[seen, head // group]
    return output


BATCHES = {
    "decode, same length": [(1, 9), (1, 9)],
    "decode, mixed lengths": [(1, 1), (1, 4), (1, 5), (1, 33), (1, 70), (1, 6)],
    "one decode": [(1, 13)],
    "whole prompts": [(7, 7), (8, 8), (2, 2)],
    "chunks behind computed tokens": [(3, 10), (5, 64), (4, 12)],
    "all of it": [(1, 17), (6, 6), (1, 3), (4, 21), (1, 40), (2, 3)],
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("num_heads, num_kv_heads", [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("scattered", [True, False])
@pytest.mark.parametrize("window", [0, 1, 4, 7, 33, 1000])
def test_equals_attention_by_hand(name: str, num_heads: int, num_kv_heads: int, scattered: bool, window: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    sequences = BATCHES[name]
    layout = KVLayout(1, 64, BLOCK_SIZE, num_kv_heads, HEAD_DIM, torch.float32)
    kv = CpuOperators().allocate_kv(layout)[0]
    blocks = list(range(64))
    if scattered:
        random.Random(3).shuffle(blocks)
    backend, scale = TorchPagedAttention(), 0.3
    tables = [[blocks.pop(0) for _ in range(-(-length // BLOCK_SIZE))] for _, length in sequences]
    keys = [torch.randn(length, num_kv_heads, HEAD_DIM) for _, length in sequences]
    values = [torch.randn(length, num_kv_heads, HEAD_DIM) for _, length in sequences]
    queries = [torch.randn(num, num_heads, HEAD_DIM) for num, _ in sequences]

    def lengths(starts: list[int], ends: list[int]) -> AttentionLengths:
        slots = [
            table[t // BLOCK_SIZE] * BLOCK_SIZE + t % BLOCK_SIZE
            for table, start, end in zip(tables, starts, ends, strict=True)
            for t in range(start, end)
        ]
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        return AttentionLengths(counts, ends, tables, slots, BLOCK_SIZE)

    ends = [length for _, length in sequences]
    starts = [length - num for num, length in sequences]
    if any(starts):  # what earlier steps computed
        present = [i for i, start in enumerate(starts) if start]
        before = AttentionLengths(
            [starts[i] for i in present], [starts[i] for i in present], [tables[i] for i in present],
            [tables[i][t // BLOCK_SIZE] * BLOCK_SIZE + t % BLOCK_SIZE for i in present for t in range(starts[i])],
            BLOCK_SIZE,
        )  # fmt: skip
        backend.attend(
            torch.zeros(sum(starts), num_heads, HEAD_DIM),
            torch.cat([keys[i][: starts[i]] for i in present]),
            torch.cat([values[i][: starts[i]] for i in present]),
            kv, backend.plan(before, window), scale,
        )  # fmt: skip
    output = backend.attend(
        torch.cat(queries),
        torch.cat([key[start:] for key, start in zip(keys, starts, strict=True)]),
        torch.cat([value[start:] for value, start in zip(values, starts, strict=True)]),
        kv,
        backend.plan(lengths(starts, ends), window),
        scale,
    )
    expected = torch.cat([by_hand(q, k, v, scale, window) for q, k, v in zip(queries, keys, values, strict=True)])
    torch.testing.assert_close(output, expected, atol=2e-6, rtol=1e-5)


def test_kv_storage_takes_memory_only_where_written() -> None:
    layout = KVLayout(2, 4096, 32, 8, 64, torch.float32)
    assert layout.size_bytes == 2 * 2 * 8 * 4096 * 32 * 64 * 4
    before = _resident_bytes()
    storage = CpuOperators().allocate_kv(layout)
    assert storage.shape == layout.shape and storage.numel() * 4 == layout.size_bytes
    assert float(storage[1, 1, 7, 4095, 31, 63]) == 0.0
    assert _resident_bytes() - before < layout.size_bytes // 8


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
