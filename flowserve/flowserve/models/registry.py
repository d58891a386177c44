"""Which file knows which architecture. A new model is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import UnsupportedArchitectureError
from .encoder_config import ENCODERS

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


def check_supported(architecture: str) -> None:
    """Raises UnsupportedArchitectureError for a name of config.json's `architectures` that has no file here."""
    if architecture in ENCODERS:
        raise UnsupportedArchitectureError(f"{architecture!r} is an encoder: it embeds (EmbeddingModel), nothing else")
    if architecture not in ARCHITECTURES:
        supported = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedArchitectureError(f"architecture {architecture!r} is not supported; supported: {supported}")


def plan_builder(architecture: str) -> Callable[[Checkpoint, ModelConfig], DecoderPlan]:
    """What makes the plan of a supported architecture."""
    check_supported(architecture)
    module = import_module(f".{ARCHITECTURES[architecture]}", __package__)
    builder: Callable[[Checkpoint, ModelConfig], DecoderPlan] = module.build_plan
    return builder
