"""The executor that a hosted model needs: one that generates, or one that embeds."""

from __future__ import annotations

from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime.executors.base import TaskExecutor
from deepserve_runtime.executors.embedding import EmbeddingExecutor
from deepserve_runtime.executors.engine import EngineExecutor
from deepserve_runtime.executors.flowserve_parts import is_embedding_model, resident_bytes, resolve_apart
from deepserve_runtime.executors.loaded_engine import LoadedEngine, loading
from deepserve_runtime.executors.model_options import check_options
from deepserve_runtime.step_clock import StepClock
from deepserve_runtime.task_threads import TaskThreads


class NotForkedError(Exception):
    """The model is one that each pod loads for itself; the text says why."""


def load_to_fork(
    spec: FunctionSpec, steps: StepClock, is_ahead: bool = False, is_awaited: bool = False
) -> LoadedEngine:
    """In a template. is_ahead: nobody waits for it; is_awaited: tasks wait for its first pods. Raises NotForkedError,
    and what make_model_executor raises."""
    if _embeds(spec):
        raise NotForkedError("a model that embeds computes in torch's threads")
    return LoadedEngine(spec, steps, is_ahead, is_awaited)


def make_model_executor(spec: FunctionSpec, threads: TaskThreads, loaded: LoadedEngine | None = None) -> TaskExecutor:
    """As its folder says. Raises ModelLoadError and InvalidModelOption, before its weights are read."""
    if loaded is not None:
        return EngineExecutor(spec, threads, loaded)
    return EmbeddingExecutor(spec, threads) if _embeds(spec) else EngineExecutor(spec, threads)


def _embeds(spec: FunctionSpec) -> bool:
    assert spec.model is not None
    with loading(spec.model):
        folder = resolve_apart(spec.model.source)
        check_options(folder, spec, resident_bytes())
        return is_embedding_model(folder)
