"""PackedRunner: steps of a decoder on the CPU's own kernels, and the KV storage they read."""

from __future__ import annotations

import ctypes
import logging
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from ...anonymous_memory import anonymous_memory
from ...errors import FlowServeError, LoadingError
from ...layers.rotary import rotary_table
from ...models.plan import DecoderPlan
from ...scheduling.batch import Batch
from ..base import StepLogits, WeightsSource
from .library import CacheShape, DecoderSpec, KernelLibrary, Kind, LayerWeights, Matrix, StepArrays, kernel_library
from .weight_arrival import WeightArrival
from .weight_file import WeightFile, packed_source, packed_weights

_logger = logging.getLogger("flowserve")


@dataclass(frozen=True)
class PackedWeights:
    """A plan and its packed weights: what a template holds before it forks."""

    plan: DecoderPlan
    file: WeightFile
    library: KernelLibrary

    @classmethod
    def load(
        cls,
        plan: DecoderPlan,
        dtype: torch.dtype,
        quantization: str | None,
        is_direct: bool = False,
        is_ahead: bool = False,
    ) -> PackedWeights:
        """Map the packed weights, packed now if need be. Raises KernelsUnavailableError or CheckpointError.

        is_direct, is_ahead: see EngineConfig.direct_load and overlap_load.
        """
        library = kernel_library()
        return cls(plan, packed_weights(plan, dtype, quantization, library, is_direct, is_ahead), library)

    @staticmethod
    def source(plan: DecoderPlan, dtype: torch.dtype, quantization: str | None) -> WeightsSource:
        """See DeviceAdapter. Raises KernelsUnavailableError."""
        return packed_source(plan, dtype, quantization, kernel_library())

    @property
    def kept_as(self) -> str:
        """What the matrices of the layers are kept as, such as "int8"."""
        return Kind(self.matrix("layers.0.gate_up").kind).name.lower()

    def matrix(self, name: str) -> Matrix:
        entry = self.file.entries[name]
        bias = self.file.address(f"{name}_bias")
        return Matrix(entry.kind, entry.n, entry.k, self.file.address(name), bias)

    def layer(self, index: int) -> LayerWeights:
        prefix = f"layers.{index}."
        return LayerWeights(
            attention_norm=self.file.address(prefix + "attention_norm"),
            qkv=self.matrix(prefix + "qkv"),
            query_norm=self.file.address(prefix + "query_norm"),
            key_norm=self.file.address(prefix + "key_norm"),
            output=self.matrix(prefix + "output"),
            mlp_norm=self.file.address(prefix + "mlp_norm"),
            gate_up=self.matrix(prefix + "gate_up"),
            down=self.matrix(prefix + "down"),
            window=self.plan.config.windows[index],
        )


@dataclass(frozen=True)
class PackedLayout:
    """See StorageLayout. A block holds, for each layer and KV head, keys and values packed like weights."""

    shape: CacheShape
    num_blocks: int
    block_size: int
    block_bytes: int

    @classmethod
    def of(cls, weights: PackedWeights, num_blocks: int, block_size: int, int8: bool) -> PackedLayout:
        """int8: whole numbers with a scale per token and head, else float32."""
        config = weights.plan.config
        shape = CacheShape(config.num_layers, config.num_kv_heads, config.head_dim, block_size, int8)
        return cls(shape, num_blocks, block_size, int(weights.library.c.fs_block_bytes(ctypes.byref(shape))))

    @property
    def size_bytes(self) -> int:
        return self.num_blocks * self.block_bytes

    @property
    def kv_dtype(self) -> str:
        return "int8" if self.shape.int8 else "float32"


class PackedStorage:
    """All blocks in one mapping; pages take memory where they are written."""

    def __init__(self, layout: PackedLayout) -> None:
        self.layout = layout
        self._pages = anonymous_memory(layout.size_bytes, f"{layout.num_blocks} KV blocks")
        self._bytes = memoryview(self._pages)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))

    @property
    def block_bytes(self) -> int:
        return self.layout.block_bytes

    def read_block(self, block: int, buffer: memoryview) -> None:
        """Copy a block of all layers to a buffer of `block_bytes`."""
        buffer[:] = self._at(block)

    def write_block(self, block: int, buffer: memoryview) -> None:
        self._at(block)[:] = buffer

    def copy_block(self, source: int, target: int) -> None:
        self._at(target)[:] = self._at(source)

    def _at(self, block: int) -> memoryview:
        return self._bytes[block * self.block_bytes : (block + 1) * self.block_bytes]


class PackedRunner:
    """See Runner. Its threads sleep between steps and end with `close`."""

    def __init__(
        self, weights: PackedWeights, layout: PackedLayout, max_model_len: int, max_tokens: int, num_threads: int
    ) -> None:
        self._decoder = None  # until there is one: `close` may come first
        self._arrival: WeightArrival | None = None
        self.num_threads = num_threads
        config = weights.plan.config
        weights.file.settle()
        self.storage = PackedStorage(layout)
        self._vocab_size, self._hidden_size = config.vocab_size, config.hidden_size
        self._library = weights.library
        rotary = rotary_table(config.rope, max_model_len)
        self._cos, self._sin = rotary.cos.contiguous(), rotary.sin.contiguous()
        self._layers = (LayerWeights * config.num_layers)(*(weights.layer(i) for i in range(config.num_layers)))
        self._weights = weights  # keeps the mapping alive
        spec = DecoderSpec(
            hidden=config.hidden_size,
            num_heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            intermediate=config.intermediate_size,
            vocab=config.vocab_size,
            num_layers=config.num_layers,
            rotary_dim=2 * self._cos.shape[1],
            max_tokens=max_tokens,
            max_logits=max_tokens,
            num_threads=num_threads,
            parts_there=len(weights.file.parts) if weights.file.is_there else 0,
            eps=config.rms_norm_eps,
            scale=config.head_dim**-0.5,
            cos=self._cos.data_ptr(),
            sin=self._sin.data_ptr(),
            embedding=weights.matrix("embedding"),
            head=weights.matrix("head" if "head" in weights.file.entries else "embedding"),
            final_norm=weights.file.address("final_norm"),
            layers=self._layers,
            cache=layout.shape,
            cache_data=self.storage.address,
        )
        self._decoder = weights.library.c.fs_decoder_create(ctypes.byref(spec))
        if not self._decoder:
            raise FlowServeError(f"no memory or threads for an engine of {max_tokens} tokens a step")
        if not weights.file.is_there:
            self._arrival = self._bring(weights)

    def _bring(self, weights: PackedWeights) -> WeightArrival | None:
        """Have the weights brought into memory while steps run that wait for them."""
        note = partial(weights.library.c.fs_decoder_note_parts, self._decoder)
        try:
            return WeightArrival.of_cache(weights.file, note)
        except LoadingError as error:  # what is mapped is there all the same, and comes page by page
            _logger.warning("%s", error)
            weights.file.settle(anyhow=True)
            note(len(weights.file.parts))
            return None

    @property
    def is_arriving(self) -> bool:
        return self._arrival is not None and not self._weights.file.is_there

    @property
    def loading_error(self) -> LoadingError | None:
        return None if self._arrival is None else self._arrival.error

    def run(self, batch: Batch, tokens: Mapping[str, list[int]], wants_hidden: bool = False) -> StepLogits:
        """One step; see Runner."""
        block_size = self.storage.layout.block_size
        token_ids, positions, starts = array("i"), array("i"), array("i", [0])
        tables, table_starts, logit_rows = array("i"), array("i"), array("i")
        for entry in batch.sequences:
            first, end = entry.start, entry.start + entry.num_tokens
            token_ids.extend(tokens[entry.sequence_id][first:end])
            positions.extend(range(first, end))
            table_starts.append(len(tables))
            tables.extend(entry.block_table[: -(-end // block_size)])
            num_tokens = len(token_ids)
            starts.append(num_tokens)
            if entry.num_logits:
                logit_rows.extend(range(num_tokens - entry.num_logits, num_tokens))
        num_logits = len(logit_rows)
        logits = torch.empty((num_logits, self._vocab_size), dtype=torch.float32)
        hidden = torch.empty((num_logits, self._hidden_size)) if wants_hidden else None
        best = array("i", bytes(4 * num_logits))
        arrays = StepArrays(
            num_tokens=len(token_ids),
            num_sequences=len(batch.sequences),
            num_logits=num_logits,
            token_ids=token_ids.buffer_info()[0],
            positions=positions.buffer_info()[0],
            query_starts=starts.buffer_info()[0],
            tables=tables.buffer_info()[0],
            table_starts=table_starts.buffer_info()[0],
            logit_rows=logit_rows.buffer_info()[0],
            logits=logits.data_ptr(),
            hidden=None if hidden is None else hidden.data_ptr(),
            best=best.buffer_info()[0],
        )
        if self._library.c.fs_decoder_step(self._decoder, ctypes.byref(arrays)) != 0:
            if (error := self.loading_error) is not None:
                raise error
            raise FlowServeError(f"the kernels broke off a step of {len(token_ids)} tokens: no memory")
        return StepLogits(logits, best.tolist(), hidden)

    def close(self) -> None:
        """End the threads and free the working memory. May be called again."""
        if self._arrival is not None:
            self._arrival.close()  # before what it tells of its progress is gone
        if self._decoder:
            self._library.c.fs_decoder_destroy(self._decoder)
            self._decoder = None

    def __del__(self) -> None:
        self.close()
