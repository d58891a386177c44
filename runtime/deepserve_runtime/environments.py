"""What each environment's template has loaded before it forks."""

from __future__ import annotations

import importlib
import os

from deepserve_runtime import sdk

ONE_THREAD_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

PYTHON_MODULES = (
    "asyncio",
    "cloudpickle",
    "concurrent.futures",
    "contextvars",
    "ctypes",
    "dataclasses",
    "inspect",
    "json",
    "linecache",
    "logging",
    "multiprocessing",
    "pickle",
    "queue",
    "random",
    "subprocess",
    "tarfile",
    "tempfile",
    "traceback",
    "typing",
    "uuid",
    "deepserve_runtime.agent",
    "deepserve_runtime.executors.function",
    "deepserve_runtime.pod_process",
)
TOKENIZER_MODULES = ("tokenizers", "jinja2", "jinja2.sandbox", "deepserve_runtime.executors.tokenizer")
FLOWSERVE_MODULES = ("torch", "deepserve_runtime.executors.engine")

ENVIRONMENTS = {
    "python": PYTHON_MODULES,
    "tokenizer": PYTHON_MODULES + TOKENIZER_MODULES,
    "flowserve": PYTHON_MODULES + TOKENIZER_MODULES + FLOWSERVE_MODULES,
}


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
    """Raises KeyError for an unknown name, ImportError for a missing package."""
    for module in ENVIRONMENTS[name]:
        importlib.import_module(module)
    sdk.load_decorators()
