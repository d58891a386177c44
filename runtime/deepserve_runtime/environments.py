"""What each environment's template has loaded before it forks."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable, Iterator
from functools import partial

from deepserve_runtime import sdk

ONE_THREAD_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

PYTHON_MODULES = ("deepserve_runtime.pod_process", "deepserve_runtime.executors.function")
TOKENIZER_MODULES = ("flowserve.chat_template", "deepserve_runtime.executors.tokenizer")
FLOWSERVE_MODULES = (
    "torch",
    "deepserve_runtime.executors.model",
    "flowserve.engine_template",
    "flowserve.device.cpu",
    "flowserve.models.names",
)
"""With what nearly every model needs: flowserve itself imports it when it loads one."""

ENVIRONMENTS = {
    "python": PYTHON_MODULES,
    "tokenizer": PYTHON_MODULES + TOKENIZER_MODULES,
    "flowserve": PYTHON_MODULES + FLOWSERVE_MODULES,
}

LATER_MODULES = (
    "deepserve_runtime.function_template",
    "deepserve_runtime.executors.async_function",
    "cloudpickle",
    "concurrent.futures.process",
    "concurrent.futures.thread",
    "multiprocessing.pool",
    "subprocess",
    "logging",
    "json",
    "uuid",
)
"""What many functions import; loaded while the template has nothing to do, so that no first call waits for it."""

_given: dict[str, str] = {}


def use_one_thread() -> None:
    """Before numpy or torch is imported: their native threads would not survive a fork."""
    for name, value in ONE_THREAD_VARIABLES.items():
        if name in os.environ:
            _given[name] = os.environ[name]
        os.environ[name] = value


def use_given_threads() -> None:
    """In a pod: back to what the user asked for, where they did. Else pods keep one thread each, as there are many."""
    os.environ.update(_given)


def load_environment(name: str) -> None:
    """What every pod of it needs. Raises KeyError for an unknown name, ImportError for a missing package."""
    for module in ENVIRONMENTS[name]:
        importlib.import_module(module)
    sdk.load_decorators()


def later_steps() -> Iterator[Callable[[], object]]:
    """Short steps that make the next pods quicker."""
    for module in LATER_MODULES:
        yield partial(importlib.import_module, module)
    yield from sdk.public_name_steps()
    yield gc.freeze
