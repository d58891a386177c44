"""How much memory the KV cache of an engine takes, and what context that allows."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from .config import EngineConfig
from .device.base import StorageLayout
from .errors import InvalidConfigError
from .models.folder_plan import context_length
from .models.loader import LoadedModel

DEFAULT_KV_BYTES = 512 * 2**20
"""Where nothing says more."""


class EngineMemory(NamedTuple):
    """What an engine takes beside its weights, in bytes. kv_bytes: its KV cache, as its options say or by itself.
    least_kv_bytes: what a sequence of its whole context needs. private_bytes: process and working memory, at most; 0
    where that was not measured."""

    kv_bytes: int
    least_kv_bytes: int
    private_bytes: int = 0


def plan_kv_memory(loaded: LoadedModel, config: EngineConfig) -> tuple[StorageLayout, int]:
    """The KV cache and the context length in tokens that it allows: one sequence of full length always fits.

    Raises InvalidConfigError for a context that is longer than the model's or the cache.
    """
    model = loaded.config
    block_size = config.block_size or loaded.device.default_block_size
    one_block = loaded.device.kv_layout(loaded, 1, block_size, config)
    max_model_len = context_length(config.max_model_len, model.max_positions)
    needed = -(-max_model_len // block_size)
    if config.num_kv_blocks is not None:
        num_blocks = config.num_kv_blocks
    else:
        budget = (config.kv_cache_bytes or DEFAULT_KV_BYTES) // one_block.block_bytes
        num_blocks = min(budget, needed * config.max_num_sequences)
        if config.kv_cache_bytes is None and config.max_model_len is not None:
            num_blocks = max(num_blocks, needed)
    if num_blocks < needed and config.max_model_len is not None:
        raise InvalidConfigError(
            f"max_model_len {max_model_len} needs {needed} KV blocks of {block_size} tokens,"
            f" the cache holds {num_blocks}"
        )
    max_model_len = min(max_model_len, num_blocks * block_size)
    if max_model_len < 2:
        raise InvalidConfigError(f"{num_blocks} KV blocks of {block_size} tokens hold no sequence of two tokens")
    return loaded.device.kv_layout(loaded, num_blocks, block_size, config), max_model_len


def memory_of(loaded: LoadedModel, config: EngineConfig, private_bytes: int = 0) -> EngineMemory:
    """Of an engine of these options. Raises InvalidConfigError, as `plan_kv_memory`."""
    layout, max_model_len = plan_kv_memory(loaded, config)
    num_blocks = -(-max_model_len // layout.block_size)
    return EngineMemory(layout.size_bytes, num_blocks * layout.block_bytes, private_bytes)


def least_kv_bytes(loaded: LoadedModel, config: EngineConfig) -> int:
    """Of one sequence: of max_model_len tokens, or of a block where none is given."""
    block_size = config.block_size or loaded.device.default_block_size
    num_blocks = -(-(config.max_model_len or 1) // block_size)
    return num_blocks * loaded.device.kv_layout(loaded, 1, block_size, config).block_bytes


def most_kv_bytes(loaded: LoadedModel, config: EngineConfig) -> int:
    """Of as many sequences as may run at once, each of full length."""
    max_model_len = context_length(config.max_model_len, loaded.config.max_positions)
    return config.max_num_sequences * least_kv_bytes(loaded, replace(config, max_model_len=max_model_len))
