"""The CPU: own kernels where they can be compiled, else torch; float32 arithmetic by default."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..attention.base import KVLayout
from ..attention.cache_rows import Int8Rows
from ..config import EngineConfig
from ..errors import InvalidConfigError, KernelsUnavailableError
from ..loading.host_copy import are_in_memory, is_worth_bringing
from ..models.config import ModelConfig
from ..models.decoder import DecoderModel, MakeLinear
from ..models.parameter import Parameter
from ..models.plan import DecoderPlan
from .base import Operators, Runner, StorageLayout, WeightsSource
from .cpu_kernels.runner import PackedLayout, PackedRunner, PackedWeights
from .cpu_torch.linears import LinearFactory
from .cpu_torch.operators import CpuOperators

if TYPE_CHECKING:
    from ..models.loader import LoadedModel

PARALLEL_FROM_PARAMETERS = 30_000_000
"""In torch, below, one step is so short that the threads' meeting costs more than they gain, and far more where other
processes want the cores too (a 4M model, both cores busy: 1.7 ms a step on one thread, 20 ms on two)."""

PACKED_PARALLEL_FROM_PARAMETERS = 8_000_000
"""The same for the kernels' own threads, which meet faster and do not wait for one that the machine keeps waiting."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_logger = logging.getLogger("flowserve")


class CpuDevice:
    """See DeviceAdapter. Building it runs no tensor operation, so it may be built before a fork."""

    name = "cpu"
    default_block_size = 32

    def __init__(self) -> None:
        self.operators: Operators = CpuOperators()

    def start(self, loaded: LoadedModel, config: EngineConfig) -> None:
        packed = isinstance(loaded.weights, PackedWeights)  # then torch only samples
        torch.set_num_threads(1 if packed else _num_threads(loaded.config, config, PARALLEL_FROM_PARAMETERS))

    def start_operators(self, num_threads: int | None, num_parameters: int) -> None:
        torch.set_num_threads(num_threads or _fitting_threads(num_parameters, PARALLEL_FROM_PARAMETERS))

    def resolve_dtype(self, name: str, checkpoint_dtype: torch.dtype) -> torch.dtype:
        # Without AMX or AVX512_BF16, bfloat16 arithmetic is emulated: several times slower than float32.
        if name == "auto":
            return torch.float32
        if name not in _DTYPES:
            raise InvalidConfigError(f"dtype {name!r} is not supported on CPU; supported: auto, {', '.join(_DTYPES)}")
        return _DTYPES[name]

    def source(self, plan: DecoderPlan, dtype: torch.dtype, config: EngineConfig) -> WeightsSource:
        if config.cpu_backend != "torch":
            with suppress(KernelsUnavailableError):  # `load` says so
                return PackedWeights.source(plan, dtype, config.quantization)
        return WeightsSource("file", "torch computes with the checkpoint's tensors")

    def load(self, plan: DecoderPlan, dtype: torch.dtype, config: EngineConfig) -> DecoderModel | PackedWeights:
        if config.cpu_backend != "torch":
            try:
                return PackedWeights.load(plan, dtype, config.quantization, config.direct_load, config.overlap_load)
            except KernelsUnavailableError as error:
                if config.cpu_backend == "extension":
                    raise
                _logger.warning("computing in torch, several times slower: %s", error)
        factory = None
        if dtype is torch.float32 or config.quantization is not None:
            threads = _num_threads(plan.config, config, PARALLEL_FROM_PARAMETERS)
            head = plan.head or plan.embedding
            factory = LinearFactory([head, *plan.matrices()], config.quantization, dtype, threads, head)
        is_deferred = config.overlap_load and is_worth_bringing(_sizes_bytes(plan))
        return DecoderModel(plan, self.operators, dtype, factory, is_deferred=is_deferred)

    def quantized_linears(
        self, matrices: Collection[Parameter], quantization: str, dtype: torch.dtype, num_threads: int | None
    ) -> MakeLinear:
        num_elements = sum(matrix.num_elements for matrix in matrices)
        threads = num_threads or _fitting_threads(num_elements, PARALLEL_FROM_PARAMETERS)
        return LinearFactory(matrices, quantization, dtype, threads)

    def weights_bytes(self, weights: DecoderModel | PackedWeights) -> int:
        return weights.file.size_bytes if isinstance(weights, PackedWeights) else 0

    def read_s(self, weights: DecoderModel | PackedWeights) -> float:
        return weights.file.read_s if isinstance(weights, PackedWeights) else weights.read_s

    def of_one_layer(self, loaded: LoadedModel) -> LoadedModel | None:
        if not isinstance(loaded.weights, PackedWeights):
            return None
        config = replace(loaded.config, num_layers=1, windows=loaded.config.windows[:1])
        plan = replace(loaded.plan, config=config, layers=loaded.plan.layers[:1])
        return replace(loaded, plan=plan, weights=replace(loaded.weights, plan=plan))

    def describe(self, loaded: LoadedModel, config: EngineConfig) -> tuple[str, str]:
        if isinstance(loaded.weights, PackedWeights):
            return loaded.weights.kept_as, f"own kernels, {loaded.weights.library.instructions}"
        kept_as = config.quantization or str(loaded.dtype).removeprefix("torch.")
        return kept_as, f"torch's operators, {torch.backends.cpu.get_cpu_capability().lower()}"

    def weights_path(self, weights: DecoderModel | PackedWeights) -> Path | None:
        return weights.file.path if isinstance(weights, PackedWeights) else None

    def is_replaced(self, weights: DecoderModel | PackedWeights) -> bool:
        return isinstance(weights, PackedWeights) and weights.file.is_replaced

    def kv_layout(self, loaded: LoadedModel, num_blocks: int, block_size: int, config: EngineConfig) -> StorageLayout:
        if isinstance(loaded.weights, PackedWeights):
            int8 = config.kv_cache_dtype == "int8" or (config.kv_cache_dtype == "auto" and config.quantization)
            return PackedLayout.of(loaded.weights, num_blocks, block_size, int8=bool(int8))
        model, dtype, width = loaded.config, loaded.dtype, loaded.config.head_dim
        if config.kv_cache_dtype == "int8":  # in torch it saves memory only, so "auto" is not int8 here
            dtype, width = torch.int8, Int8Rows(width).width
        elif config.kv_cache_dtype == "float32":
            dtype = torch.float32
        return KVLayout(model.num_layers, num_blocks, block_size, model.num_kv_heads, width, dtype)

    def runner(self, loaded: LoadedModel, layout: StorageLayout, max_model_len: int, config: EngineConfig) -> Runner:
        if isinstance(layout, PackedLayout):
            threads = _num_threads(loaded.config, config, PACKED_PARALLEL_FROM_PARAMETERS)
            return PackedRunner(loaded.weights, layout, max_model_len, config.max_num_batched_tokens, threads)
        from ..worker.model_runner import ModelRunner

        assert isinstance(layout, KVLayout)
        return ModelRunner(loaded, layout, max_model_len)

    def settle(self, weights: DecoderModel | PackedWeights) -> None:
        if isinstance(weights, DecoderModel) and not weights.is_there and are_in_memory(_sizes_bytes(weights.plan)):
            weights.build_all()

    def park(self, weights: DecoderModel | PackedWeights) -> bool:
        if isinstance(weights, PackedWeights):
            weights.file.park()
            return True
        return False  # tensors are memory of this process: their checkpoint stays in the page cache

    def unpark(self, weights: DecoderModel | PackedWeights) -> None:
        if isinstance(weights, PackedWeights):
            weights.file.unpark()

    def forget(self, weights: DecoderModel | PackedWeights) -> None:
        if isinstance(weights, PackedWeights):
            weights.file.forget()

    def trim_memory(self) -> None:
        with suppress(OSError, AttributeError):  # a C library without it has no such habit
            ctypes.CDLL(None).malloc_trim(0)


def _sizes_bytes(plan: DecoderPlan) -> dict[Path, int]:
    """Of the checkpoint's files."""
    return {path: state.size_bytes for path, state in plan.files().items()}


def _num_threads(model: ModelConfig, config: EngineConfig, parallel_from: int) -> int:
    return config.num_threads or _fitting_threads(model.num_parameters, parallel_from)


def _fitting_threads(num_parameters: int, parallel_from: int) -> int:
    return len(os.sched_getaffinity(0)) if num_parameters >= parallel_from else 1
