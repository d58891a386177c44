"""What is wrong with a model's options, told before its weights are read, and without torch.

The rules are the engine's own: the same functions run when it is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .config import EngineConfig
from .errors import InvalidConfigError
from .models.bert import EncoderPlan
from .models.config import ModelConfig
from .models.encoder_config import is_embedding_model
from .models.folder_plan import context_length, embedding_config, generating_config, read_plan
from .models.parameter import Parameter
from .models.plan import DecoderPlan

_SHORTEST_SEQUENCE = 32
"""Tokens that an engine without max_model_len must have room for: a block."""


class LeastMemory(NamedTuple):
    """Lower bounds, known from the folder alone. kv_bytes: of one sequence of num_tokens."""

    weights_bytes: int = 0
    kv_bytes: int = 0
    num_tokens: int = 0


def check_model(folder: Path, config: EngineConfig, *, process_bytes: int = 0, has_weights: bool = True) -> LeastMemory:
    """Whether an engine of these options can be made of a folder, as far as its config.json and headers tell.

    process_bytes: what the process takes that is to hold it, weights not counted. has_weights: False where they are
    not there yet. Raises ModelNotFoundError, CheckpointError, UnsupportedModelError for the folder, InvalidConfigError
    for options that contradict it: a context longer than the model's, memory that does not hold the weights and one
    sequence.
    """
    is_embedding = is_embedding_model(folder)
    model = embedding_config(folder) if is_embedding else generating_config(folder)
    num_tokens = context_length(config.max_model_len, model.max_positions)
    if not has_weights:
        return LeastMemory()
    least = LeastMemory(_weights_bytes(read_plan(folder, model), config))
    if not is_embedding:
        assert isinstance(model, ModelConfig)
        if config.max_model_len is None:
            num_tokens = min(num_tokens, config.block_size or _SHORTEST_SEQUENCE)
        least = LeastMemory(least.weights_bytes, num_tokens * _token_bytes(model, config), num_tokens)
    if config.memory_bytes is not None and process_bytes + sum(least[:2]) > config.memory_bytes:
        parts = [f"weights of {_mebibytes(least.weights_bytes)} MiB"]
        if least.kv_bytes:
            parts.append(f"KV of {_mebibytes(least.kv_bytes)} MiB for one sequence of {num_tokens:,} tokens")
        if process_bytes:
            parts.append(f"a process of {_mebibytes(process_bytes)} MiB")
        raise too_little_memory(config.memory_bytes, process_bytes + sum(least[:2]), ", ".join(parts))
    return least


def too_little_memory(memory_bytes: int, needed_bytes: int, what: str) -> InvalidConfigError:
    """The error for a `memory_bytes` that does not hold `what`."""
    return InvalidConfigError(
        f"memory of {memory_bytes >> 20} MiB is too small: at least {_mebibytes(needed_bytes)} MiB are needed ({what})"
    )


def _mebibytes(size_bytes: int) -> int:
    """Rounded up."""
    return -(-size_bytes // 2**20)


def _weights_bytes(plan: DecoderPlan | EncoderPlan, config: EngineConfig) -> int:
    """Matrices as a device keeps them at least; it adds scales and padding."""
    if isinstance(plan, EncoderPlan):
        item_bytes = {"int8": 1, "int4": 0.5, None: 2 if config.dtype == "bfloat16" else 4}[config.quantization]
        return int(plan.config.num_parameters * item_bytes)

    def size(parameter: Parameter) -> float:
        if len(parameter.shape) == 1:
            return 4
        if config.quantization is not None:
            is_outer = parameter is plan.embedding or parameter is plan.head
            return 0.5 if config.quantization == "int4" and not is_outer else 1
        is_narrow = all(part.tensor.type_name in ("bfloat16", "float16") for part in parameter.parts)
        return 2 if is_narrow or config.dtype == "bfloat16" else 4

    return int(sum(parameter.num_elements * size(parameter) for parameter in plan.parameters()))


def _token_bytes(model: ModelConfig, config: EngineConfig) -> int:
    """Keys and values of a token in all layers, as a device keeps them at least."""
    kind = config.kv_cache_dtype
    if kind == "int8" or (kind == "auto" and config.quantization is not None):
        head_bytes = model.head_dim
    else:
        head_bytes = model.head_dim * (2 if kind == "auto" and config.dtype == "bfloat16" else 4)
    return 2 * model.num_layers * model.num_kv_heads * head_bytes
