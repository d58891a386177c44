"""The largest step that an engine of some options makes: as many tokens as one holds, in as many sequences."""

from __future__ import annotations

from dataclasses import replace

from .config import EngineConfig
from .engine import Engine
from .errors import LoadingError
from .kv_memory import plan_kv_memory
from .memory import resident_bytes
from .models.loader import LoadedModel
from .sampling_params import SamplingParams
from .tokenizer import Tokenizer


def run_largest_step(loaded: LoadedModel, tokenizer: Tokenizer, config: EngineConfig) -> int:
    """Run it; what this process has in memory then, without KV blocks, in bytes. Raises LoadingError where it fails.

    Of all layers but the first only the size of the weights counts, where the device can tell the two apart.
    """
    short = loaded.device.of_one_layer(loaded)
    config, length, number = _largest(loaded, config)
    loaded.device.unpark(loaded.weights)  # nobody else is to bring them meanwhile, who would take memory for that
    engine = Engine(short or loaded, tokenizer, config)
    params = SamplingParams(temperature=1.0, seed=1, max_tokens=1, ignore_eos=True, detokenize=False)
    for each in range(number):
        engine.add(str(each), [each % loaded.config.vocab_size] * length, params)
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise LoadingError(f"the largest step failed: {output.error}")
    num_written = number * -(-(length + 1) // engine.setup.block_size)
    used_bytes = -num_written * plan_kv_memory(short or loaded, config)[0].block_bytes
    if short is not None:
        loaded.device.park(loaded.weights)  # some of them are in memory now: all will be
        used_bytes += loaded.device.weights_bytes(loaded.weights)
    used_bytes += resident_bytes()
    engine.close()
    return max(0, used_bytes)


def _largest(loaded: LoadedModel, config: EngineConfig) -> tuple[EngineConfig, int, int]:
    """Options with KV for it, the tokens of each of its prompts, and how many these are."""
    block_size = config.block_size or loaded.device.default_block_size
    most = min(config.max_model_len or loaded.config.max_positions, loaded.config.max_positions) - 1
    length = max(1, min(most, -(-config.max_num_batched_tokens // config.max_num_sequences)))
    number = max(1, min(config.max_num_sequences, config.max_num_batched_tokens // length))
    written = number * -(-(length + 1) // block_size)
    num_blocks = max(written, -(-(most + 1) // block_size) if config.max_model_len else 0)
    return (
        replace(
            config, kv_cache_bytes=None, num_kv_blocks=num_blocks, overlap=False, step_log=None, target_step_ms=0.0
        ),
        length,
        number,
    )
