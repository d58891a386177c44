"""EngineConfig: the few options of an engine. Everything else is derived from the model and the device."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from .errors import InvalidConfigError


@dataclass(frozen=True)
class EngineConfig:
    """Options of one engine. Raises `InvalidConfigError` naming the field.

    device: "auto" or "cpu".
    dtype: "auto" (float32 on CPU), "float32" or "bfloat16". In torch of weights, activations and, unless it has a dtype
    of its own, the KV cache; the CPU's own kernels only keep the weights in it, and compute in float32.
    quantization: of the weights: None (exact), "int8" (a scale per output, activations quantised per token) or "int4"
    (a scale per 32 weights; embedding and output projection at 8 bits).
    kv_cache_dtype: "float32", "int8" (a scale per token and head), or "auto": int8 where weights are quantised and the
    own kernels read them, for torch would be slower with it; else as the activations.
    cpu_backend: "extension" (own kernels, compiled once per machine), "torch", or "auto": the first that works.
    tensor_parallel_size: only 1 is supported so far.
    max_model_len: context in tokens; None = the model's, cut to what the KV cache holds.
    max_num_sequences: sequences that run at once.  max_num_batched_tokens: tokens of one step (the prefill chunk).
    target_step_ms: what a step with prompts should take while other sequences are there: prompts come in shorter chunks
    then (not so short that the step is hardly worth its fixed part), and sequences of a later priority than one of them
    are left out, at most 8 steps in a row. 0 = however long they get.
    kv_cache_bytes: bytes for the KV cache; None = what an eighth of the host's memory leaves, at least 512 MiB, grown
    when an explicit max_model_len needs more (see `with_kv_budget`).
    memory_bytes: of the process, for weights, working memory and KV cache together; the KV cache takes what the others
    leave, which is measured once for such an engine on such a machine and kept beside the converted weights. Excludes
    kv_cache_bytes and num_kv_blocks.
    num_kv_blocks: blocks instead of bytes (tests and simulations).  block_size: tokens per block, 1 to 1,024;
    None = the device's.
    enable_prefix_caching: keep the blocks of finished sequences for prompts with the same start.
    host_cache_bytes, file_cache_bytes: room below the device for blocks that leave it, in memory and, through that, in
    a file that is gone with the process; None = none. Preempted sequences are swapped there instead of computed again.
    file_cache_folder: where that file lies; None = the system's folder for temporary files.
    context_cache_share: part of the KV cache that contexts (`Engine.preserve`) may pin, 0 to 1.
    speculative_tokens: tokens guessed at most for each sequence and verified in one step; 0 = off.
    speculative_ngram: shortest and longest run of tokens whose earlier continuation is the guess.
    overlap: plan the next step and read the last one's tokens while a thread runs one; None = where it pays. Not with
    speculation, whose guesses need the last step's tokens.
    step_log: a file that gets a line for each step, beside the last three full ones (see `step_log`); True = only the
    newest, in memory (`Engine.step_log`); None = off.
    cost_model: a file that `flowserve calibrate` or `fit-cost` wrote for such an engine, by which it is decided whether
    KV in lower tiers is fetched or computed again; None = by a guess, and then by what steps take.
    direct_load: weights that are not in memory are read past the page cache, into memory that forks share and that
    the system cannot take back; else into the page cache.
    overlap_load: of a large file that is not in memory, steps run while later layers are still read: the first waits
    for each layer, and fails where that does not come. False = loading ends when all is there.
    num_threads: threads of tensor operations; None = the device's choice.
    seed: seed from which those of sequences without one are derived; None = a fresh one.
    """

    dtype: str = "auto"
    quantization: str | None = None
    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    max_num_sequences: int = 32
    max_num_batched_tokens: int = 512
    target_step_ms: float = 25.0
    kv_cache_bytes: int | None = None
    num_kv_blocks: int | None = None
    block_size: int | None = None
    enable_prefix_caching: bool = True
    speculative_tokens: int = 0
    speculative_ngram: tuple[int, int] = (2, 4)
    overlap: bool | None = None
    num_threads: int | None = None
    device: str = "auto"
    seed: int | None = None
    kv_cache_dtype: str = "auto"
    cpu_backend: str = "auto"
    host_cache_bytes: int | None = None
    file_cache_bytes: int | None = None
    file_cache_folder: str | Path | None = None
    context_cache_share: float = 0.5
    step_log: str | Path | bool | None = None
    cost_model: str | Path | None = None
    direct_load: bool = False
    overlap_load: bool = True
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.quantization not in QUANTIZATIONS:
            supported = ", ".join(map(str, QUANTIZATIONS))
            raise InvalidConfigError(f"quantization {self.quantization!r} is not supported; supported: {supported}")
        for name, allowed in (("kv_cache_dtype", KV_CACHE_DTYPES), ("cpu_backend", CPU_BACKENDS)):
            if getattr(self, name) not in allowed:
                raise InvalidConfigError(
                    f"{name} {getattr(self, name)!r} is not supported; supported: {', '.join(allowed)}"
                )
        if self.overlap and self.speculative_tokens:
            raise InvalidConfigError("overlap and speculative_tokens exclude each other: a guess needs the last tokens")
        if self.tensor_parallel_size != 1:
            raise InvalidConfigError(f"tensor_parallel_size {self.tensor_parallel_size} is not supported; supported: 1")
        if self.dtype not in DTYPES:
            raise InvalidConfigError(f"dtype {self.dtype!r} is not supported; supported: {', '.join(DTYPES)}")
        if self.device not in DEVICES:
            raise InvalidConfigError(f"device {self.device!r} is not supported; supported: {', '.join(DEVICES)}")
        if not 0 <= self.speculative_tokens <= MAX_SPECULATIVE_TOKENS:
            raise InvalidConfigError(
                f"speculative_tokens must be 0 (off) to {MAX_SPECULATIVE_TOKENS}, got {self.speculative_tokens}"
            )
        if len(self.speculative_ngram) != 2 or not 1 <= self.speculative_ngram[0] <= self.speculative_ngram[1] <= 16:
            raise InvalidConfigError(
                f"speculative_ngram must be the shortest and the longest run, 1 to 16, got {self.speculative_ngram}"
            )
        if not 0.0 <= self.target_step_ms < float("inf"):
            raise InvalidConfigError(f"target_step_ms must be 0 (however long) or more, got {self.target_step_ms}")
        self._check_tiers()
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and value < 1:
                or_none = "" if name.startswith("max_num") else " or None"
                raise InvalidConfigError(f"{name} must be at least 1{or_none}, got {value}")
            if value is not None and most is not None and value > most:
                raise InvalidConfigError(f"{name} must be at most {most}, got {value}")

    def _check_types(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not _may_be(value, _TYPES[field.name]):
                raise InvalidConfigError(f"{field.name} must be of type {field.type}, got {value!r}")

    def _check_tiers(self) -> None:
        if self.memory_bytes is not None and (self.kv_cache_bytes is not None or self.num_kv_blocks is not None):
            raise InvalidConfigError(
                "memory_bytes says how large the KV cache is, as kv_cache_bytes and num_kv_blocks do"
            )
        if self.host_cache_bytes is not None and not self.enable_prefix_caching:
            raise InvalidConfigError("host_cache_bytes keeps what enable_prefix_caching finds again, and that is off")
        if self.file_cache_bytes is not None and self.host_cache_bytes is None:
            raise InvalidConfigError("file_cache_bytes needs host_cache_bytes: blocks reach the file through memory")
        if not 0 <= self.context_cache_share <= 1:
            raise InvalidConfigError(f"context_cache_share must be 0 to 1, got {self.context_cache_share}")


DTYPES = ("auto", "float32", "bfloat16")
MAX_SPECULATIVE_TOKENS = 32
DEVICES = ("auto", "cpu")
QUANTIZATIONS = (None, "int8", "int4")
KV_CACHE_DTYPES = ("auto", "float32", "int8")
CPU_BACKENDS = ("auto", "extension", "torch")
_MOST: dict[str, int | None] = {
    "max_num_sequences": 2**20,
    "max_num_batched_tokens": 2**20,
    "max_model_len": None,
    "kv_cache_bytes": None,
    "memory_bytes": None,
    "num_kv_blocks": 2**31 - 1,
    "block_size": 1024,
    "num_threads": 4096,
    "host_cache_bytes": None,
    "file_cache_bytes": None,
}
"""What is at least 1, and at most so much: beyond, 32 bits would cut it off. None = as much as there is."""

_TYPES = get_type_hints(EngineConfig)


def _may_be(value: object, kind: Any) -> bool:
    """Whether a field of this type may have the value: a truth value is no number, a whole number is a float too."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    if get_origin(kind) is tuple:
        return isinstance(value, tuple | list) and all(map(_may_be, value, [int] * len(value)))
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
