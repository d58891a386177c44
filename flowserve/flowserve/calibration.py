"""Calibration: an engine driven through batches of all shapes for some seconds, so that its step log tells enough."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from .engine import Engine
from .sampling_params import SamplingParams
from .step_record import StepRecord

_WARM_UP_STEPS = 8
_OUTPUT_TOKENS = 8


def calibration_steps(
    engine: Engine, seconds: float, clock: Callable[[], float] = time.monotonic, seed: int = 0
) -> list[StepRecord]:
    """Run requests of random tokens until the time is over, and return their steps without the first ones.

    The shapes come in rounds, so that a short run has seen a little of each. The engine must log its steps
    (`EngineConfig.step_log`), have nothing to do, no prefix caching and no `target_step_ms`, which would make large
    ones rare.
    """
    assert engine.step_log is not None
    rng = random.Random(seed)
    end_s = clock() + seconds
    records: list[StepRecord] = []
    first = engine.stats().num_steps + 1
    while clock() < end_s:
        for num_sequences, prompt_tokens in _shapes(engine, rng):
            if clock() >= end_s:
                break
            last = engine.stats().num_steps
            _run(engine, rng, num_sequences, prompt_tokens)
            records += [record for record in engine.step_log.records() if record.number > last]
    return [record for record in records if record.number >= first + _WARM_UP_STEPS]


def _shapes(engine: Engine, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Sequences at once and tokens of each prompt, as far as the engine has room: one pair for each magnitude of tokens
    in all, smallest first, since a large prompt takes as long as hundreds of small steps."""
    stats, config = engine.stats(), engine.config
    longest = engine.max_model_len - _OUTPUT_TOKENS
    room = stats.total_blocks * stats.block_size
    by_magnitude: dict[int, list[tuple[int, int]]] = {}
    for num_sequences in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
        for power in range(12):
            tokens = min(2**power + rng.randrange(2**power), longest)
            total = num_sequences * tokens
            fits = num_sequences * (tokens + _OUTPUT_TOKENS + stats.block_size) <= room
            if fits and num_sequences <= config.max_num_sequences and total <= 3 * config.max_num_batched_tokens:
                by_magnitude.setdefault(total.bit_length(), []).append((num_sequences, tokens))
    for magnitude in sorted(by_magnitude):
        yield rng.choice(by_magnitude[magnitude])


def _run(engine: Engine, rng: random.Random, num_sequences: int, prompt_tokens: int) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=_OUTPUT_TOKENS, ignore_eos=True, detokenize=False)
    vocab = engine.model_config.vocab_size
    for number in range(num_sequences):
        length = max(1, prompt_tokens - rng.randrange(prompt_tokens // 8 + 1))
        engine.add(f"calibration-{number}", rng.choices(range(vocab), k=length), params)
    while engine.has_work:
        engine.step()
