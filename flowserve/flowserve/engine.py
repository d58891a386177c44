"""Engine: many sequences, one step at a time. `step` is the heartbeat; everything else prepares or explains it."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .attention.base import KVLayout
from .config import EngineConfig
from .detokenizer import Detokenizer
from .errors import (
    InvalidConfigError,
    InvalidPromptError,
    InvalidRequestError,
    PromptTooLongError,
    UnknownSequenceError,
)
from .hub import resolve_model
from .models.loader import LoadedModel, load_model
from .outputs import EngineStats, SequenceOutput
from .rtc.cache import RelationalTensorCache
from .sampling_params import SamplingParams
from .scheduling.batch import Batch
from .scheduling.scheduler import Scheduler, SchedulerConfig
from .sequence_stream import SequenceStream
from .sequence_text import SequenceText
from .structured import GrammarCompiler
from .tokenizer import Tokenizer
from .worker.sampler import SampledToken, SamplerState
from .worker.worker import Worker

_DEFAULT_KV_BYTES = 512 * 2**20


class Engine:
    """One model on one device. Not thread-safe: one thread adds, steps and aborts.

    Building it takes hold of the device (threads, KV cache); a process that forks engines loads the model before
    (`load_model`, one thread, no parallel operation) and builds the engine in the child. `clock` is that of deadlines.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        tokenizer: Tokenizer,
        config: EngineConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._clock = clock
        self.tokenizer = tokenizer
        self.model_config = loaded.config
        loaded.device.start(config.num_threads, loaded.config.num_parameters)
        layout, self.max_model_len = _plan_memory(loaded, config)
        self._cache = RelationalTensorCache(layout.num_blocks, layout.block_size, config.enable_prefix_caching)
        self._scheduler = Scheduler(
            SchedulerConfig(config.max_num_sequences, config.max_num_batched_tokens), self._cache
        )
        self._worker = Worker(loaded, layout, self.max_model_len)
        self._grammars = GrammarCompiler(tokenizer, loaded.config.vocab_size, tokenizer.eos_token_ids)
        self._streams: dict[str, SequenceStream] = {}
        self._seed = secrets.randbits(63) if config.seed is None else config.seed
        self._num_steps = 0

    @classmethod
    def from_folder(cls, model: str | Path, config: EngineConfig | None = None) -> Engine:
        """Load a folder or a hub id. Raises the ModelNotFound, Unsupported, Checkpoint and Tokenizer errors."""
        config = config or EngineConfig()
        folder = resolve_model(model)
        loaded = load_model(folder, config)
        return cls(loaded, Tokenizer.from_folder(folder), config)

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def add(
        self,
        sequence_id: str,
        prompt_ids: list[int],
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        deadline_s: float | None = None,
    ) -> None:
        """Queue a sequence.

        priority: lower comes earlier, equals in order of arrival (`BoundedPriority` has the whole rule).  deadline_s:
        seconds of the engine's clock (time.monotonic) at which it ends with the reason "deadline" if it still goes on.
        Raises PromptTooLongError, InvalidPromptError, InvalidGrammarError, InvalidRequestError (priority, deadline) or
        UnknownSequenceError (id in use); then nothing is queued and the other sequences are not touched.
        """
        params = params or SamplingParams()
        if sequence_id in self._streams:
            raise UnknownSequenceError(f"sequence {sequence_id!r} is in the engine already")
        self._check_prompt(prompt_ids)
        _check_turn(priority, deadline_s)
        left = self.max_model_len - len(prompt_ids)
        max_tokens = left if params.max_tokens is None else min(params.max_tokens, left)
        eos = () if params.ignore_eos else self.tokenizer.eos_token_ids
        end_token_ids = (*eos, *params.stop_token_ids)
        grammar = self._grammars.compile(params.structured_outputs) if params.structured_outputs else None
        text = SequenceText(Detokenizer(self.tokenizer, prompt_ids, params.skip_special_tokens), params.stop)
        sequence = self._scheduler.add(
            sequence_id, prompt_ids, max_tokens, priority=priority, deadline_s=deadline_s
        )
        seed = self._seed + sequence.arrival if params.seed is None else params.seed
        in_vocabulary = tuple(sorted({i for i in end_token_ids if i < self.model_config.vocab_size}))
        state = SamplerState(params, seed, list(prompt_ids), len(prompt_ids), in_vocabulary, grammar)
        self._worker.add(sequence_id, state)
        self._streams[sequence_id] = SequenceStream(sequence, text, frozenset(end_token_ids))

    def step(self) -> list[SequenceOutput]:
        """Compute one batch; one output for each sequence that got a token or met its deadline, else none."""
        ended = self._expire()
        batch = self._scheduler.schedule()
        if not batch:
            return ended
        sampled = self._worker.execute(batch)
        self._num_steps += 1
        return ended + self._receive(batch, sampled)

    def abort(self, sequence_id: str) -> None:
        """Drop a sequence; no further output. Raises UnknownSequenceError for an id that is not in the engine."""
        self._scheduler.abort(sequence_id)
        self._forget(sequence_id)

    def stats(self) -> EngineStats:
        """Counts for routing, scaling and tests."""
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            free_blocks=self._cache.num_free_blocks,
            total_blocks=self._cache.num_blocks,
            cached_blocks=self._cache.num_cached_blocks,
            block_size=self._cache.block_size,
            num_preemptions=self._scheduler.num_preemptions,
            num_steps=self._num_steps,
            prefix_hit_tokens=self._scheduler.prefix_hit_tokens,
        )

    def check_invariants(self) -> None:
        """Raise AssertionError where the engine's books contradict each other. For tests."""
        self._scheduler.check_invariants()
        assert len(self._streams) == self._scheduler.num_running + self._scheduler.num_waiting

    def _check_prompt(self, prompt_ids: list[int]) -> None:
        if not prompt_ids:
            raise InvalidPromptError("the prompt is empty")
        if len(prompt_ids) >= self.max_model_len:
            raise PromptTooLongError(
                f"prompt of {len(prompt_ids)} tokens does not fit the context of {self.max_model_len} tokens"
                " with room for one more"
            )
        vocab_size = self.model_config.vocab_size
        for token_id in prompt_ids:
            if not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
                raise InvalidPromptError(f"token id {token_id!r} is not in the vocabulary of {vocab_size}")

    def _expire(self) -> list[SequenceOutput]:
        if not self._scheduler.has_deadlines:
            return []
        return [self._end(sequence.sequence_id) for sequence in self._scheduler.expire(self._clock())]

    def _receive(self, batch: Batch, sampled: Mapping[str, list[SampledToken]]) -> list[SequenceOutput]:
        """Read a step's tokens, count them, and say what became of each sequence that got some."""
        streams = {sequence_id: self._streams[sequence_id] for sequence_id in sampled}
        results = {sequence_id: streams[sequence_id].read(tokens) for sequence_id, tokens in sampled.items()}
        for sequence in self._scheduler.complete(batch, results):
            self._forget(sequence.sequence_id)
        return [
            stream.output(sampled[sequence_id], results[sequence_id].token_ids)
            for sequence_id, stream in streams.items()
        ]

    def _end(self, sequence_id: str) -> SequenceOutput:
        """The last output of a sequence that ended without a token."""
        stream = self._streams[sequence_id]
        self._forget(sequence_id)
        return stream.output([])

    def _forget(self, sequence_id: str) -> None:
        del self._streams[sequence_id]
        self._worker.remove(sequence_id)


def _check_turn(priority: int, deadline_s: float | None) -> None:
    if not isinstance(priority, int):
        raise InvalidRequestError(f"priority must be an integer, got {priority!r}")
    if deadline_s is not None and (not isinstance(deadline_s, int | float) or math.isnan(deadline_s)):
        raise InvalidRequestError(f"deadline_s must be a time in seconds, got {deadline_s!r}")


def _plan_memory(loaded: LoadedModel, config: EngineConfig) -> tuple[KVLayout, int]:
    """The KV cache and the context length it allows: one sequence of full length always fits."""
    model = loaded.config
    block_size = config.block_size or loaded.device.default_block_size
    one_block = KVLayout(model.num_layers, 1, block_size, model.num_kv_heads, model.head_dim, loaded.dtype)
    max_model_len = min(config.max_model_len or model.max_positions, model.max_positions)
    if config.max_model_len is not None and config.max_model_len > model.max_positions:
        raise InvalidConfigError(
            f"max_model_len {config.max_model_len} is more than the model's {model.max_positions} positions"
        )
    needed = -(-max_model_len // block_size)
    if config.num_kv_blocks is not None:
        num_blocks = config.num_kv_blocks
    else:
        budget = (config.kv_cache_bytes or _DEFAULT_KV_BYTES) // one_block.block_bytes
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
    layout = KVLayout(model.num_layers, num_blocks, block_size, model.num_kv_heads, model.head_dim, loaded.dtype)
    return layout, max_model_len
