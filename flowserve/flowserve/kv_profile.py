"""What an engine takes beside its KV cache, found by one run of its largest step and kept for later starts.

DeepServe 2.12: the memory for KV is profiled offline and kept in the configuration, so no start needs a run for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from .config import EngineConfig
from .kv_memory import DEFAULT_KV_BYTES, least_kv_bytes, most_kv_bytes
from .largest_step import run_largest_step
from .loading.throwaway import has_one_thread, run_apart
from .memory import anonymous_bytes, host_bytes
from .model_check import too_little_memory
from .models.loader import LoadedModel
from .tokenizer import Tokenizer

_VERSION = 2
_SPARE_SHARE = 0.1
"""Of the memory: for what grows with use (grammars, outputs, the allocator's holes)."""
HOST_SHARE = 1 / 8
"""Of the host's memory, for an engine that was given none: as many as a hosted model has at most by default fill it,
though they share their weights. KV takes memory where it is written, but prefixes are kept as long as there is room."""
_IRRELEVANT = (
    "memory_bytes",
    "kv_cache_bytes",
    "seed",
    "step_log",
    "cost_model",
    "direct_load",
    "overlap_load",
    "target_step_ms",
)

_logger = logging.getLogger("flowserve")


def with_kv_budget(loaded: LoadedModel, tokenizer: Tokenizer, config: EngineConfig) -> EngineConfig:
    """The options with `kv_cache_bytes`: what `memory_bytes` leaves, or where that is not given, what an eighth of the
    host's memory leaves, at least 512 MiB where the host has them.

    As they are where they say how large the cache is, and without `memory_bytes` also where 512 MiB hold all sequences
    that may run, or there is no file to keep a measurement beside. What is not known yet is measured, in a child where
    this process has one thread. Raises InvalidConfigError where `memory_bytes` has no room for the KV of one sequence,
    and LoadingError.
    """
    memory_bytes = config.memory_bytes
    path = _path_of(loaded, config)
    if memory_bytes is None and (
        config.kv_cache_bytes is not None
        or config.num_kv_blocks is not None
        or path is None
        or most_kv_bytes(loaded, config) <= DEFAULT_KV_BYTES
    ):
        return config
    used_bytes = _kept(path)
    if used_bytes is None:
        _logger.info("measuring what a step of %s takes (once on this machine)", loaded.folder)
        used_bytes = _measured(loaded, tokenizer, replace(config, memory_bytes=None))
        _keep(path, used_bytes)
    if memory_bytes is None:
        return replace(config, kv_cache_bytes=_share_of_host(used_bytes, least_kv_bytes(loaded, config)))
    least_bytes = least_kv_bytes(loaded, config)
    needed_bytes = used_bytes + min(int((used_bytes + least_bytes) * _SPARE_SHARE / (1 - _SPARE_SHARE)), least_bytes)
    if memory_bytes < needed_bytes + least_bytes:
        what = f"{used_bytes >> 20} MiB for weights, working memory and the process, the rest for one sequence's KV"
        raise too_little_memory(memory_bytes, needed_bytes + least_bytes, what)
    left_bytes = memory_bytes - used_bytes
    spare_bytes = min(int(memory_bytes * _SPARE_SHARE), left_bytes // 2)
    return replace(config, memory_bytes=None, kv_cache_bytes=left_bytes - spare_bytes)


def private_bytes(loaded: LoadedModel, config: EngineConfig) -> int:
    """What an engine of a process that is forked from this one takes of its own beside KV, at most: of the measurement
    that `with_kv_budget` keeps for these options all but weights and what this process has now. 0 where none is kept.
    """
    used_bytes = _kept(_path_of(loaded, config))
    if used_bytes is None:
        return 0
    return max(0, used_bytes - loaded.device.weights_bytes(loaded.weights) - anonymous_bytes())


def _share_of_host(used_bytes: int, least_bytes: int) -> int:
    """For KV, of an engine that takes so much besides; enough for one sequence anyhow, as who asked for it was told."""
    has_bytes = host_bytes()
    room_bytes = int(has_bytes * (1 - _SPARE_SHARE)) - used_bytes
    return max(least_bytes, min(room_bytes, max(DEFAULT_KV_BYTES, int(has_bytes * HOST_SHARE) - used_bytes)))


def _measured(loaded: LoadedModel, tokenizer: Tokenizer, config: EngineConfig) -> int:
    def measure() -> str:
        return str(run_largest_step(loaded, tokenizer, config))

    text = run_apart(f"profiling {loaded.folder}", measure) if has_one_thread() else None
    return int(text if text is not None else measure())


def _path_of(loaded: LoadedModel, config: EngineConfig) -> Path | None:
    """Beside the converted weights; None where these are in no file. All that the measurement depends on is in its
    name: the weights' own tells the checkpoint's state and how it was converted."""
    weights = loaded.device.weights_path(loaded.weights)
    if weights is None:
        return None
    options = {name: value for name, value in asdict(config).items() if name not in _IRRELEVANT}
    machine = (loaded.device.name, os.sysconf("SC_PHYS_PAGES"), len(os.sched_getaffinity(0)))
    key = hashlib.sha256(repr((_VERSION, sorted(options.items()), config.memory_bytes, machine)).encode())
    return weights.with_suffix(f".kv-{key.hexdigest()[:12]}.json")


def _kept(path: Path | None) -> int | None:
    if path is None:
        return None
    try:
        used = json.loads(path.read_text())["used_bytes"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _logger.warning("%s cannot be read (%s: %s); measured anew", path, type(error).__name__, error)
        return None
    return used if isinstance(used, int) and used >= 0 else None


def _keep(path: Path | None, used_bytes: int) -> None:
    if path is None:
        return
    partial = path.with_suffix(f".partial-{os.getpid()}")
    try:
        partial.write_text(json.dumps({"used_bytes": used_bytes}))
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        _logger.warning("what the engine takes cannot be kept in %s: %s", path, error)
