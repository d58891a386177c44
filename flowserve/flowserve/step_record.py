"""StepWork and StepRecord: what a step computed, in the few numbers its time depends on, and what it took. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from .query_key_pairs import num_pairs
from .scheduling.batch import Batch


class StepWork(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sizes of one step.

    prefill_tokens: tokens of prompts, of sequences that get several at once; drafts that are verified count as well.
    decode_sequences: sequences that get one token.  num_logits: rows of logits, each as wide as the vocabulary.
    prefill_pairs, decode_pairs: how many keys all those queries look at together, which is what attention costs.
    """

    prefill_tokens: int = 0
    decode_sequences: int = 0
    num_sequences: int = 0
    num_logits: int = 0
    prefill_pairs: int = 0
    decode_pairs: int = 0

    @property
    def num_tokens(self) -> int:
        return self.prefill_tokens + self.decode_sequences

    @classmethod
    def of_batch(cls, batch: Batch, window: int = 0) -> StepWork:
        """window: keys that a query sees at most; 0 = all."""
        prefill_tokens = decode_sequences = prefill_pairs = decode_pairs = num_logits = 0
        for entry in batch.sequences:
            num_logits += entry.num_logits
            if entry.num_tokens == 1:
                decode_sequences += 1
                decode_pairs += min(entry.end, window) if window else entry.end
            else:
                prefill_tokens += entry.num_tokens
                prefill_pairs += num_pairs(entry.start, entry.num_tokens, window)
        return cls(
            prefill_tokens=prefill_tokens,
            decode_sequences=decode_sequences,
            num_sequences=len(batch.sequences),
            num_logits=num_logits,
            prefill_pairs=prefill_pairs,
            decode_pairs=decode_pairs,
        )

    @classmethod
    def of_prompt(cls, num_tokens: int, context: int = 0, window: int = 0, *, is_last: bool = True) -> StepWork:
        """A step of `num_tokens` of one prompt behind `context` tokens; the last of a prompt needs logits."""
        if num_tokens == 1:
            return cls.of_decodes([context + 1], window)
        return cls(
            prefill_tokens=num_tokens,
            num_sequences=1,
            num_logits=int(is_last),
            prefill_pairs=num_pairs(context, num_tokens, window),
        )

    @classmethod
    def of_decodes(cls, contexts: Sequence[int], window: int = 0) -> StepWork:
        """A step of one token for each of several sequences. contexts: their lengths with that token."""
        return cls(
            decode_sequences=len(contexts),
            num_sequences=len(contexts),
            num_logits=len(contexts),
            decode_pairs=sum(min(context, window) for context in contexts) if window else sum(contexts),
        )


class StepRecord(StepWork, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One step of an engine.

    number: of the step, counted from 1 by its engine.
    device_ms: the worker's part (its inputs, the model, the sampling).  engine_ms: planning the step, reading its
    tokens, texts.  overlapped: the engine's part is done while the worker's of another step runs.
    running, waiting: sequences behind the step.  preempted: sequences that lost their blocks for it.
    """

    number: int
    device_ms: float
    engine_ms: float = 0.0
    running: int = 0
    waiting: int = 0
    free_blocks: int = 0
    preempted: int = 0
    overlapped: bool = False

    @property
    def ms(self) -> float:
        """What the step added to the time of all."""
        return max(self.device_ms, self.engine_ms) if self.overlapped else self.device_ms + self.engine_ms


class StepSetting(msgspec.Struct, frozen=True, kw_only=True):
    """Under which conditions steps were taken: only those of one setting may be fitted together.

    All as the engine has it, also where its config leaves the choice to it.
    model: name of its folder.  shape: hidden and intermediate size, layers, heads, KV heads, head size, vocabulary.
    dtype: of activations.  checkpoint_dtype: of the weights, where they are not quantised.
    window: as in `StepWork.of_batch`.  chunk: tokens of one step at most.  block_bytes: of one KV block, all layers.
    """

    model: str = ""
    shape: tuple[int, ...] = ()
    device: str = ""
    backend: str = ""
    dtype: str = ""
    checkpoint_dtype: str = ""
    quantization: str | None = None
    kv_cache_dtype: str = ""
    num_threads: int | None = None
    window: int = 0
    chunk: int = 512
    block_size: int = 1
    block_bytes: int = 0


def shared_window(windows: Iterable[int]) -> int:
    """The window that bounds every layer; 0 where one layer sees all."""
    listed = list(windows)
    return max(listed) if listed and all(listed) else 0
