"""The device adapter: all that differs between devices, in nineteen methods, and eight operators for models in torch.

`torch.accelerator` is not enough: memory queries, synchronisation and graphs fail on several out-of-tree devices, so
each device answers for itself. A vendor package is imported by its adapter when that is built, never before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from ..attention.base import AttentionBackend, KVLayout

if TYPE_CHECKING:
    from ..config import EngineConfig
    from ..errors import LoadingError
    from ..models.decoder import MakeLinear
    from ..models.loader import LoadedModel
    from ..models.parameter import Parameter
    from ..models.plan import DecoderPlan
    from ..scheduling.batch import Batch


class WeightsSource(NamedTuple):
    """Where weights come from. kind: "conversion" of the checkpoint into what the device reads, "file", or "host
    memory" where the page cache holds that file.  reason: why from there, in words."""

    kind: str
    reason: str


class StorageLayout(Protocol):
    """Size of the KV storage of one engine: `num_blocks` blocks of `block_size` tokens, all layers."""

    @property
    def num_blocks(self) -> int: ...

    @property
    def block_size(self) -> int: ...

    @property
    def block_bytes(self) -> int:
        """Bytes of one block in all layers."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def kv_dtype(self) -> str:
        """What keys and values are stored as: "float32", "bfloat16" or "int8"."""


class BlockStorage(Protocol):
    """KV storage as those see it who move blocks and need not know what is in them."""

    @property
    def block_bytes(self) -> int: ...

    def read_block(self, block: int, buffer: memoryview) -> None:
        """Copy a block of all layers to a buffer of `block_bytes` bytes."""

    def write_block(self, block: int, buffer: memoryview) -> None:
        """Fill a block of all layers from such a buffer."""

    def copy_block(self, source: int, target: int) -> None:
        """Make block `target` equal to block `source`."""


@dataclass(frozen=True, slots=True)
class StepLogits:
    """What a step computes: float32 logits [n, V], in the batch's order, for its reader to change as it likes.

    best: the most likely token of each row (the first of equals), where the device found it on the way; -1 for a row
    that holds a NaN or nothing above -inf, which nobody can sample from.
    hidden: float32 [n, d], what the logits are made of, where it is wanted.
    """

    values: torch.Tensor
    best: list[int] | None = None
    hidden: torch.Tensor | None = None


class Runner(Protocol):
    """A model on a device with its KV storage; keeps no state of sequences."""

    @property
    def storage(self) -> BlockStorage: ...

    @property
    def num_threads(self) -> int:
        """Threads of this process that compute a step."""

    def run(self, batch: Batch, tokens: Mapping[str, list[int]], wants_hidden: bool = False) -> StepLogits:
        """Compute a batch: logits of the last `num_logits` tokens of each entry, in order.

        tokens: the known tokens of each sequence, prompt and output.  wants_hidden: see StepLogits.
        """

    @property
    def is_arriving(self) -> bool:
        """Whether some of the weights are still on their way, for which a step waits."""

    @property
    def loading_error(self) -> LoadingError | None:
        """Why they will not come: no step can be made any more."""

    def close(self) -> None:
        """Give back threads and memory. No step may follow."""


class Operators(Protocol):
    """What models in torch compute with on a device. Shapes: T packed tokens, H query heads, D head size."""

    torch_device: torch.device

    def prepare_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """A loaded matrix [out, in] as the device multiplies it best (packing, layout casts)."""

    def to_device(self, values: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Host integers as a 1-d tensor on the device."""

    def allocate_kv(self, layout: KVLayout) -> torch.Tensor:
        """Zeroed KV storage of all layers, in the shape the attention back end wants."""

    def attention_backend(self, layout: KVLayout, head_dim: int) -> AttentionBackend:
        """The back end of the attention contract on this device, for a cache of this layout."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Root-mean-square norm over the last axis, computed in float32."""

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary embedding of x [T, H, D] with cos, sin [T, 1, R], halves convention; dimensions from R on stay."""

    def silu_and_mul(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up of x = [gate, up] over the last axis."""

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [T, in] times a prepared weight, plus bias."""


class DeviceAdapter(Protocol):
    """A device as the engine has it. operators: of models that run in torch."""

    name: str
    operators: Operators
    default_block_size: int

    def start(self, loaded: LoadedModel, config: EngineConfig) -> None:
        """Take hold of the device in this process; the first thing an engine does, never done at import.

        Where `config.num_threads` is None the device chooses, by the size of the model.
        """

    def start_operators(self, num_threads: int | None, num_parameters: int) -> None:
        """The same for a model of so many parameters that runs in torch operators, without an engine."""

    def quantized_linears(
        self, matrices: Collection[Parameter], quantization: str, dtype: torch.dtype, num_threads: int | None
    ) -> MakeLinear:
        """What multiplies by quantised weights in such a model: called with each of its matrices."""

    def resolve_dtype(self, name: str, checkpoint_dtype: torch.dtype) -> torch.dtype:
        """The dtype to compute in for "auto", "float32" or "bfloat16"; raises InvalidConfigError if it cannot."""

    def source(self, plan: DecoderPlan, dtype: torch.dtype, config: EngineConfig) -> WeightsSource:
        """Where `load` would take the weights from now."""

    def load(self, plan: DecoderPlan, dtype: torch.dtype, config: EngineConfig) -> Any:
        """The weights of a plan as this device computes with them. On one thread, so that a fork may follow.

        Raises CheckpointError for a tensor that holds NaN or infinity, InvalidConfigError for a quantisation that the
        device does not have, KernelsUnavailableError.
        """

    def weights_bytes(self, weights: Any) -> int:
        """What loaded weights take of memory, 0 where it is not known."""

    def read_s(self, weights: Any) -> float:
        """Seconds that reading loaded weights into memory took; 0 where nothing was read, or is not all there yet."""

    def of_one_layer(self, loaded: LoadedModel) -> LoadedModel | None:
        """With the same weights, of which a step computes only the first layer's and what is around the layers: it
        takes the working memory of a whole one, in a fraction of its time. None where a whole step must be made."""

    def describe(self, loaded: LoadedModel, config: EngineConfig) -> tuple[str, str]:
        """What the matrices are kept as ("int8"), and what computes with them ("own kernels, avx512-vnni")."""

    def weights_path(self, weights: Any) -> Path | None:
        """The file in the cache folder that loaded weights are mapped from; None where they are in none."""

    def is_replaced(self, weights: Any) -> bool:
        """Whether loaded weights that are still to come from that file can come from it no more."""

    def kv_layout(self, loaded: LoadedModel, num_blocks: int, block_size: int, config: EngineConfig) -> StorageLayout:
        """How so many blocks are stored for a loaded model."""

    def runner(self, loaded: LoadedModel, layout: StorageLayout, max_model_len: int, config: EngineConfig) -> Runner:
        """Allocate the storage and make the model ready to run, in the process that runs it.

        Raises InvalidConfigError for a storage that the device has no memory for.
        """

    def settle(self, weights: Any) -> None:
        """In a process of one thread that is about to fork: have what its forks can share, where no disk need be read
        for it. Raises CheckpointError for a tensor that holds NaN or infinity."""

    def park(self, weights: Any) -> bool:
        """Give back the memory of loaded weights, but keep them within reach. False: they must be loaded anew.

        Whoever computes with them next finds them unchanged, `unpark` only makes that fast.
        """

    def unpark(self, weights: Any) -> None:
        """Bring weights to where they are computed with."""

    def forget(self, weights: Any) -> None:
        """Weights are dropped: keep no copy of them that others could use, as far as it is this device's own."""

    def trim_memory(self) -> None:
        """Give memory that this process has freed back to the system."""
