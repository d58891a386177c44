"""The largest step that an engine of some options makes: as many tokens as one holds, in as many sequences."""

from __future__ import annotations

from dataclasses import replace

from .config import EngineConfig
from .engine import Engine
from .errors import LoadingError
from .kv_memory import plan_kv_memory
from .models.loader import LoadedModel
from .resident_memory import resident_bytes
from .sampling_params import SamplingParams
from .tokenizer import Tokenizer


def run_largest_step(loaded: LoadedModel, tokenizer: Tokenizer, config: EngineConfig) -> int:
    """Run it; what this process has in memory then, without KV blocks, in bytes. Raises LoadingError where it fails."""
    block_size = config.block_size or loaded.device.default_block_size
    most = min(config.max_model_len or loaded.config.max_positions, loaded.config.max_positions) - 1
    length = max(1, min(most, -(-config.max_num_batched_tokens // config.max_num_sequences)))
    number = max(1, min(config.max_num_sequences, config.max_num_batched_tokens // length))
    written = number * -(-(length + 1) // block_size)
    num_blocks = max(written, -(-(most + 1) // block_size) if config.max_model_len else 0)
    config = replace(config, kv_cache_bytes=None, num_kv_blocks=num_blocks, overlap=False, step_log=None)
    engine = Engine(loaded, tokenizer, config)
    params = SamplingParams(temperature=1.0, seed=1, max_tokens=1, ignore_eos=True, detokenize=False)
    for each in range(number):
        engine.add(str(each), [each % loaded.config.vocab_size] * length, params)
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise LoadingError(f"the largest step failed: {output.error}")
    kv_bytes = written * plan_kv_memory(loaded, config)[0].block_bytes
    used_bytes = max(0, resident_bytes() - kv_bytes)
    engine.close()
    return used_bytes
