"""EngineSetup: what an engine was built from and what it takes, for people to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from .config import EngineConfig
from .device.base import WeightsSource
from .device_hold import DeviceHold
from .models.loader import LoadedModel


@dataclass(frozen=True)
class EngineSetup:
    """weights: what they are kept as, "int8".  weights_bytes: 0 where it is not known.
    kernels: what computes, and for which instructions."""

    weights: str
    weights_bytes: int
    source: WeightsSource
    kv_dtype: str
    kv_bytes: int
    num_blocks: int
    block_size: int
    max_model_len: int
    device: str
    kernels: str
    num_threads: int

    @classmethod
    def of(cls, loaded: LoadedModel, config: EngineConfig, hold: DeviceHold) -> Self:
        layout = hold.layout
        kept_as, kernels = loaded.device.describe(loaded, config)
        return cls(
            weights=kept_as,
            weights_bytes=loaded.device.weights_bytes(loaded.weights),
            source=loaded.source,
            kv_dtype=layout.kv_dtype,
            kv_bytes=layout.size_bytes,
            num_blocks=layout.num_blocks,
            block_size=layout.block_size,
            max_model_len=hold.max_model_len,
            device=loaded.device.name,
            kernels=kernels,
            num_threads=hold.runner.num_threads,
        )

    def weights_line(self) -> str:
        size = f", {mebibytes(self.weights_bytes)}" if self.weights_bytes else ""
        return f"weights: {self.weights}{size}, from {self.source.kind} ({self.source.reason})"

    def memory_line(self) -> str:
        num_tokens = self.num_blocks * self.block_size
        return (
            f"KV cache: {self.kv_dtype}, {mebibytes(self.kv_bytes)} for {num_tokens:,} tokens; "
            f"a request has {self.max_model_len:,} at most"
        )

    def computing_line(self) -> str:
        return f"computing on {self.device}, {threads(self.num_threads)}: {self.kernels}"


def mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.{0 if size_bytes >= 100 * 2**20 else 1}f} MiB"


def threads(number: int) -> str:
    return f"{number} thread{'s' * (number != 1)}"
