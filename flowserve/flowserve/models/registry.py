"""Which file knows which architecture. A new model is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .config import ModelConfig
    from .plan import DecoderPlan

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


def plan_builder(architecture: str) -> Callable[[Checkpoint, ModelConfig], DecoderPlan]:
    """What makes the plan of a name in config.json's `architectures`; raises UnsupportedArchitectureError."""
    if architecture not in ARCHITECTURES:
        supported = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedArchitectureError(f"architecture {architecture!r} is not supported; supported: {supported}")
    module = import_module(f".{ARCHITECTURES[architecture]}", __package__)
    builder: Callable[[Checkpoint, ModelConfig], DecoderPlan] = module.build_plan
    return builder
