"""FlowServe: an engine for large language models, usable alone.

    from flowserve import LLM, SamplingParams
    print(LLM("path/to/folder").generate("Once upon", SamplingParams(max_tokens=32))[0].outputs[0].text)

Names are loaded on first use: a process that only tokenises never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import EngineConfig
    from .embedding_model import EmbeddingModel
    from .engine import Engine
    from .errors import FlowServeError
    from .llm import LLM
    from .outputs import CompletionOutput, RequestOutput, SequenceOutput
    from .sampling_params import SamplingParams, StructuredOutputsParams
    from .version import __version__

__all__ = [
    "LLM",
    "CompletionOutput",
    "EmbeddingModel",
    "Engine",
    "EngineConfig",
    "FlowServeError",
    "RequestOutput",
    "SamplingParams",
    "SequenceOutput",
    "StructuredOutputsParams",
    "__version__",
]

_HOMES = {
    "LLM": "llm",
    "CompletionOutput": "outputs",
    "EmbeddingModel": "embedding_model",
    "Engine": "engine",
    "EngineConfig": "config",
    "FlowServeError": "errors",
    "RequestOutput": "outputs",
    "SamplingParams": "sampling_params",
    "SequenceOutput": "outputs",
    "StructuredOutputsParams": "sampling_params",
    "__version__": "version",
}

_ENGINES = ("LLM", "Engine", "EmbeddingModel")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowserve' has no attribute {name!r}")
    if name in _ENGINES:
        from .packages import require_packages

        require_packages(f"flowserve.{name}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
