"""The executor that a hosted model needs: one that generates, or one that embeds."""

from __future__ import annotations

from pathlib import Path

from deepserve.protocol.messages import PodMemory
from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime.executors.base import TaskExecutor
from deepserve_runtime.executors.embedding import EmbeddingExecutor
from deepserve_runtime.executors.engine import EngineExecutor
from deepserve_runtime.executors.flowserve_parts import (
    bytes_to_fetch,
    is_embedding_model,
    resident_bytes,
    resolve_apart,
)
from deepserve_runtime.executors.loaded_engine import LoadedEngine, loading
from deepserve_runtime.executors.model_options import check_options, least_memory
from deepserve_runtime.step_clock import StepClock
from deepserve_runtime.task_threads import TaskThreads


class NotForkedError(Exception):
    """The model is one that each pod loads for itself; the text says why, `memory` what such a pod takes."""

    def __init__(self, text: str, memory: PodMemory) -> None:
        super().__init__(text)
        self.memory = memory


def load_to_fork(
    spec: FunctionSpec, steps: StepClock, is_ahead: bool = False, is_awaited: bool = False
) -> LoadedEngine:
    """In a template. is_ahead: nobody waits for it; is_awaited: tasks wait for its first pods. Raises NotForkedError,
    and what make_model_executor raises."""
    folder = _checked_folder(spec)
    if is_embedding_model(folder):
        memory = PodMemory(private_bytes=resident_bytes() + least_memory(folder, spec).weights_bytes)
        raise NotForkedError("a model that embeds computes in torch's threads", memory)
    return LoadedEngine(spec, steps, is_ahead, is_awaited)


def size_to_fetch(spec: FunctionSpec) -> int:
    """Bytes of its weights' files, where they have to be fetched; 0 unknown."""
    assert spec.model is not None
    with loading(spec.model):
        return bytes_to_fetch(spec.model.source)


def make_model_executor(
    spec: FunctionSpec, threads: TaskThreads, loaded: LoadedEngine | None = None, kv_bytes: int = 0
) -> TaskExecutor:
    """As its folder says. kv_bytes: see BindExecutor. Raises ModelLoadError and InvalidModelOption, before its weights
    are read."""
    if loaded is not None:
        return EngineExecutor(spec, threads, loaded, kv_bytes)
    folder = _checked_folder(spec)
    if is_embedding_model(folder):
        return EmbeddingExecutor(spec, threads)
    return EngineExecutor(spec, threads, kv_bytes=kv_bytes)


def _checked_folder(spec: FunctionSpec) -> Path:
    assert spec.model is not None
    with loading(spec.model):
        folder = resolve_apart(spec.model.source)
        check_options(folder, spec, resident_bytes())
        return folder
