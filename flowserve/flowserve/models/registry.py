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
    "LlamaModel": "llama",
    "MistralForCausalLM": "mistral",
    "MistralModel": "mistral",
    "Phi3ForCausalLM": "phi3",
    "Phi3Model": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2Model": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3Model": "qwen3",
}


def family_of(architecture: str) -> str:
    """The file for a name in config.json's `architectures`; raises UnsupportedArchitectureError where there is none."""
    if architecture in ENCODERS:
        raise UnsupportedArchitectureError(
            f"{architecture!r} is an encoder: it embeds (EmbeddingModel, flowserve serve), it does not generate"
        )
    if architecture not in ARCHITECTURES:
        supported = ", ".join(sorted(ARCHITECTURES) + sorted(ENCODERS))
        raise UnsupportedArchitectureError(f"architecture {architecture!r} is not supported; supported: {supported}")
    return ARCHITECTURES[architecture]


def plan_builder(architecture: str) -> Callable[[Checkpoint, ModelConfig], DecoderPlan]:
    """What makes the plan of an architecture; raises UnsupportedArchitectureError."""
    module = import_module(f".{family_of(architecture)}", __package__)
    builder: Callable[[Checkpoint, ModelConfig], DecoderPlan] = module.build_plan
    return builder
