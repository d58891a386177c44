"""EngineTemplate: a model loaded once in a process of one thread, for the engines of the processes forked from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .config import EngineConfig
from .device.base import WeightsSource
from .engine import Engine
from .errors import LoadingError
from .hub import resolve_apart
from .kv_memory import EngineMemory, memory_of, plan_kv_memory
from .kv_profile import private_bytes, with_kv_budget
from .layers.rotary import rotary_table
from .model_parts import load_with_tokenizer
from .models.loader import one_thread
from .sampling_params import SamplingParams


class EngineTemplate:
    """Weights mapped, tokenizer and configuration read, tables computed; no thread, no parallel operation, no KV.

    What is fetched or converted (see `LoadedModel.source`) is so in a child, whose memory and connections go with it.
    Raises the ModelNotFound, Unsupported, Checkpoint, Loading, Tokenizer and InvalidConfig errors.
    """

    def __init__(self, model: str | Path, config: EngineConfig) -> None:
        self.folder = folder = resolve_apart(model)
        self._loaded, self._tokenizer = load_with_tokenizer(folder, config, apart=True)
        self._config = with_kv_budget(self._loaded, self._tokenizer, config)
        self.memory: EngineMemory = memory_of(self._loaded, self._config, private_bytes(self._loaded, config))
        """Of each engine that is told of no other `kv_bytes`."""
        _, max_model_len = plan_kv_memory(self._loaded, self._config)
        with one_thread():
            rotary_table(self._loaded.config.rope, max_model_len)

    def changed(self) -> str:
        """Which files are others than those that were loaded, or mapped to be; empty where none are."""
        if not (text := self._loaded.files.changed()) and self._loaded.device.is_replaced(self._loaded.weights):
            text = f"the converted weights of {self.folder} were replaced before they were read"
        return text

    def gone(self) -> str:
        """Which of them are no more; empty where all are there."""
        return self._loaded.files.gone()

    @property
    def source(self) -> WeightsSource:
        """See `LoadedModel.source`."""
        return self._loaded.source

    @property
    def weights_bytes(self) -> int:
        """Of the weights as they are in memory."""
        return self._loaded.device.weights_bytes(self._loaded.weights)

    @property
    def read_s(self) -> float:
        """See DeviceAdapter. Engines of this process have their own word for it."""
        return self._loaded.device.read_s(self._loaded.weights)

    def settle(self) -> None:
        """Before a fork: weights that were left to who computes first, and are in memory by now, are built here where
        forks can share them. Raises CheckpointError."""
        with one_thread(), torch.inference_mode():
            self._loaded.device.settle(self._loaded.weights)

    def engine(self, kv_bytes: int = 0) -> Engine:
        """An engine of this process: KV storage, threads, scheduler. Its first step is the caller's to make.

        kv_bytes: what its KV cache may take, where that is less than what it would; the context stays as it is. 0 = no
        other bound. Raises LoadingError where it does not hold one sequence.
        """
        if not 0 < kv_bytes < self.memory.kv_bytes:
            return Engine(self._loaded, self._tokenizer, self._config)
        if kv_bytes < self.memory.least_kv_bytes:
            needed_mib = -(-self.memory.least_kv_bytes // 2**20)
            text = f"{needed_mib} MiB are needed for the KV of one sequence, there are {kv_bytes // 2**20} MiB for it"
            raise LoadingError(text)
        config = replace(self._config, kv_cache_bytes=kv_bytes, num_kv_blocks=None)
        return Engine(self._loaded, self._tokenizer, config)


def take_first_step(engine: Engine) -> None:
    """One token of a prompt of one, so that no request pays for what a first step does (DeepServe's dummy request).

    Raises LoadingError where that fails.
    """
    name = "first step"
    engine.add(name, [0], SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False))
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise LoadingError(f"the first step failed: {output.error}")
