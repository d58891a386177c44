"""Task executors: what runs tasks in a bound pod."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime.bundle_store import Fetch
from deepserve_runtime.executors.base import TaskExecutor
from deepserve_runtime.loaded_code import LoadedCode
from deepserve_runtime.pod import Pod
from deepserve_runtime.task_threads import TaskThreads

if TYPE_CHECKING:
    from deepserve_runtime.executors.loaded_engine import LoadedEngine


def make_executor(
    pod: Pod,
    spec: FunctionSpec,
    fetch: Fetch,
    threads: TaskThreads,
    code: LoadedCode | LoadedEngine | None = None,
    kv_bytes: int = 0,
) -> TaskExecutor:
    """The executor for `spec`; what it needs is imported here, as not every environment has it.

    `code`: what the pod was forked with, where it was. kv_bytes: see BindExecutor.
    """
    if spec.kind == "tokenizer":
        from deepserve_runtime.executors.tokenizer import TokenizerExecutor

        return TokenizerExecutor(spec, threads)
    if spec.kind == "model":
        from deepserve_runtime.executors.model import make_model_executor

        return make_model_executor(spec, threads, cast("LoadedEngine | None", code), kv_bytes)
    from deepserve_runtime.executors.function import FunctionExecutor

    return FunctionExecutor(pod, spec, fetch, threads, cast("LoadedCode | None", code))
