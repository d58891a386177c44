"""The executor that a hosted model needs: one that generates, or one that embeds."""

from __future__ import annotations

from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime.executors.base import TaskExecutor
from deepserve_runtime.executors.embedding import EmbeddingExecutor
from deepserve_runtime.executors.engine import EngineExecutor
from deepserve_runtime.executors.flowserve_parts import is_embedding_model, resolve_model
from deepserve_runtime.executors.model_memory import check_fits_into_memory
from deepserve_runtime.executors.tokenizer import loading
from deepserve_runtime.task_threads import TaskThreads


def make_model_executor(spec: FunctionSpec, threads: TaskThreads) -> TaskExecutor:
    """As its folder says. Raises ModelLoadError, also for a model that does not fit, before anything of it is read."""
    assert spec.model is not None
    with loading(spec.model):
        folder = resolve_model(spec.model.source)
        check_fits_into_memory(folder, spec)
        embeds = is_embedding_model(folder)
    return EmbeddingExecutor(spec, threads) if embeds else EngineExecutor(spec, threads)
