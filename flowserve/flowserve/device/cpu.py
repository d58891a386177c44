"""The CPU: float32 by default, KV storage mapped lazily, attention in plain torch."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..attention.base import AttentionBackend, KVLayout
from ..attention.torch_paged import TorchPagedAttention
from ..errors import InvalidConfigError
from ..models.decoder import DecoderModel
from ..models.plan import DecoderPlan

PARALLEL_FROM_PARAMETERS = 30_000_000
"""Below, one step is so short that the threads' meeting costs more than they gain, and far more where other
processes want the cores too (a 4M model, both cores busy: 1.7 ms a step on one thread, 20 ms on two)."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class CpuDevice:
    """See DeviceAdapter. Building it runs no tensor operation, so it may be built before a fork."""

    name = "cpu"
    distributed_backend = "gloo"
    default_block_size = 32

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")

    def start(self, num_threads: int | None, num_parameters: int) -> None:
        fitting = len(os.sched_getaffinity(0)) if num_parameters >= PARALLEL_FROM_PARAMETERS else 1
        torch.set_num_threads(num_threads or fitting)

    def resolve_dtype(self, name: str, checkpoint_dtype: torch.dtype) -> torch.dtype:
        # Without AMX or AVX512_BF16, bfloat16 arithmetic is emulated: several times slower than float32.
        if name == "auto":
            return torch.float32
        if name not in _DTYPES:
            raise InvalidConfigError(f"dtype {name!r} is not supported on CPU; supported: auto, {', '.join(_DTYPES)}")
        return _DTYPES[name]

    def load(self, plan: DecoderPlan, dtype: torch.dtype) -> DecoderModel:
        return DecoderModel(plan, self, dtype)

    def free_memory_bytes(self) -> int:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def synchronize(self) -> None:
        pass

    def prepare_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def to_device(self, values: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype)

    def allocate_kv(self, layout: KVLayout) -> torch.Tensor:
        # An anonymous mapping reads as zeros and takes memory only where it is written, unlike torch.zeros.
        pages = mmap.mmap(-1, layout.size_bytes)
        return torch.frombuffer(pages, dtype=layout.dtype).view(layout.shape)

    def attention_backend(self) -> AttentionBackend:
        return TorchPagedAttention()

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        # For small models the number of operations is the cost: in place, and no casts where there is nothing to cast.
        wide = x if x.dtype is torch.float32 else x.float()
        scale = (wide * wide).mean(-1, keepdim=True).add_(eps).rsqrt_()
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
