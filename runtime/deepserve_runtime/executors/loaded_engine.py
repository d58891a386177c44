"""LoadedEngine: what the executors of a model share, loaded by a pod for itself or in a template for all its forks.

Of the steps of scaling, TE-Load and TE-Post-Load are the executor's own; the controller adds those that it alone sees.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from deepserve.protocol.messages import PodMemory, Weights
from deepserve.protocol.model_io import ENGINE_SEATS
from deepserve.protocol.prompt_blocks import BLOCK_TOKENS
from deepserve.protocol.scaling_steps import LOAD
from deepserve.protocol.specs import FunctionSpec, ModelSpec
from deepserve_runtime import sdk
from deepserve_runtime.executors.accelerators import device_of
from deepserve_runtime.executors.flowserve_parts import (
    EngineConfig,
    InvalidConfigError,
    engine_template,
    read_sampling_defaults,
)
from deepserve_runtime.step_clock import StepClock

_WORDS = {"conversion": "a conversion of the checkpoint", "file": "the file"}

_OPTIONS = [
    (re.compile(r"^memory of (\d+) MiB"), r"memory=\1 MiB"),
    (re.compile(r"^tensor_parallel_size (\S+)"), r"tensor_parallel=\1"),
    (re.compile(r"^(max_model_len|dtype|quantization|kv_cache_dtype) (\S+)"), r"\1=\2"),
]


class LoadedEngine:
    """Safe to fork: no thread, no descriptor but those of mapped files. `source`: see flowserve's WeightsSource.

    weights: what was read by now; a file that is only mapped is read by the first executor.
    """

    has_pod_hooks = False

    def __init__(self, spec: FunctionSpec, steps: StepClock, is_ahead: bool = False, is_awaited: bool = False) -> None:
        """is_ahead: all weights are brought into memory; else a large file is left to the executor that comes first.
        is_awaited: tasks wait for the executors that are forked first.

        Raises ModelLoadError.
        """
        assert spec.model is not None
        with loading(spec.model):
            self.template = engine_template(spec.model.source, engine_config(spec, overlap_load=not is_ahead))
            self.folder = self.template.folder
            self.defaults = read_sampling_defaults(self.folder)
        self.is_awaited, self._is_first_awaited = False, is_awaited
        self.source, self.source_reason = self.template.source
        self.weights = Weights(self.template.weights_bytes, self.template.read_s * 1e3)
        self.memory = PodMemory(*self.template.memory)
        steps.mark(LOAD)
        if self.source != "host memory":  # what takes long is for the log
            text = f"model {spec.model.name!r}: weights from {_WORDS[self.source]}: {self.source_reason}"
            print(text, file=sys.stderr, flush=True)

    def settle(self) -> None:
        """Before pods are forked: what has come into memory since, for them to share. `is_awaited` is of these pods."""
        self.is_awaited, self._is_first_awaited = self._is_first_awaited, False
        with suppress(Exception):  # the pod that needs it is told
            self.template.settle()


@contextmanager
def loading(model: ModelSpec) -> Iterator[None]:
    """Raises InvalidModelOption for options that cannot be, ModelLoadError for whatever else goes wrong inside."""
    try:
        yield
    except sdk.errors.ModelLoadError:
        raise
    except InvalidConfigError as error:
        raise sdk.errors.InvalidModelOption(f"Model {model.name!r}: {_in_words_of_models(str(error))}") from error
    except Exception as error:  # a malformed folder may break anything
        raise sdk.errors.ModelLoadError(
            f"model {model.name!r} cannot be loaded from {model.source}: {error}"
        ) from error


def _in_words_of_models(text: str) -> str:
    """The engine's error with the options as `deepserve.Model` has them."""
    for pattern, words in _OPTIONS:
        text = pattern.sub(words, text)
    return text


def engine_config(spec: FunctionSpec, overlap_load: bool = True) -> EngineConfig:
    model = spec.model
    assert model is not None
    return EngineConfig(
        device=device_of(spec.resources.accelerators),
        dtype=model.dtype,
        quantization=model.quantization,
        kv_cache_dtype=model.kv_cache_dtype,
        speculative_tokens=model.speculative_tokens,
        tensor_parallel_size=model.tensor_parallel,
        max_model_len=model.max_model_len,
        max_num_sequences=ENGINE_SEATS,
        block_size=BLOCK_TOKENS,
        step_log=True,
        overlap_load=overlap_load,
        memory_bytes=(spec.resources.memory_mib << 20) or None,
    )
