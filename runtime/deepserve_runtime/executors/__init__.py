"""Task executors: what runs tasks in a bound pod."""

from __future__ import annotations

from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime.bundle_store import Fetch
from deepserve_runtime.executors.base import TaskExecutor
from deepserve_runtime.loaded_code import LoadedCode
from deepserve_runtime.pod import Pod
from deepserve_runtime.task_threads import TaskThreads


def make_executor(
    pod: Pod, spec: FunctionSpec, fetch: Fetch, threads: TaskThreads, code: LoadedCode | None = None
) -> TaskExecutor:
    """The executor for `spec`; what it needs is imported here, as not every environment has it.

    `code`: of a function or class, where the pod was forked with it.
    """
    if spec.kind == "tokenizer":
        from deepserve_runtime.executors.tokenizer import TokenizerExecutor

        return TokenizerExecutor(spec, threads)
    if spec.kind == "model":
        from deepserve_runtime.executors.model import make_model_executor

        return make_model_executor(spec, threads)
    from deepserve_runtime.executors.function import FunctionExecutor

    return FunctionExecutor(pod, spec, fetch, threads, code)
