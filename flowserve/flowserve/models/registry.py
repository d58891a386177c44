"""Which class runs which architecture. A new model is one file and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from .decoder import DecoderModel

ARCHITECTURES = {
    "LlamaForCausalLM": ("llama", "Llama"),
    "Qwen2ForCausalLM": ("qwen2", "Qwen2"),
    "Qwen3ForCausalLM": ("qwen3", "Qwen3"),
}


def model_class(architecture: str) -> type[DecoderModel]:
    """The class for a name in config.json's `architectures`; raises UnsupportedArchitectureError."""
    if architecture not in ARCHITECTURES:
        supported = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedArchitectureError(f"architecture {architecture!r} is not supported; supported: {supported}")
    module, name = ARCHITECTURES[architecture]
    found: type[DecoderModel] = getattr(import_module(f".{module}", __package__), name)
    return found
