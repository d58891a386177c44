"""What an engine has of a model folder: weights and tokenizer, of one and the same state of it."""

from __future__ import annotations

from pathlib import Path

from .config import EngineConfig
from .models.loader import LoadedModel, load_model, unchanged
from .tokenizer import Tokenizer


def load_with_tokenizer(folder: Path, config: EngineConfig, *, apart: bool = False) -> tuple[LoadedModel, Tokenizer]:
    """Both, read again where the folder changed between them. Raises what `load_model` and the tokenizer raise."""

    def read() -> tuple[LoadedModel, Tokenizer]:
        return load_model(folder, config, apart=apart), Tokenizer.from_folder(folder)

    return unchanged(read, lambda found: found[0].files)
