"""From a model folder to its configuration and plan: config.json and the headers of its files. Needs no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import InvalidConfigError, UnsupportedModelError
from .bert import EncoderPlan, encoder_plan
from .checkpoint import Checkpoint
from .config import ModelConfig, read_model_config
from .encoder_config import ENCODERS, EncoderConfig, is_embedding_model, read_encoder_config
from .json_fields import read_config_json
from .plan import DecoderPlan
from .registry import plan_builder


def generating_config(folder: Path) -> ModelConfig:
    """Of a folder whose model generates. Raises ModelNotFoundError, CheckpointError, UnsupportedModelError."""
    plan_builder(read_config_json(folder)[2])  # an architecture that is not known is told first
    if is_embedding_model(folder):
        raise UnsupportedModelError(f"{str(folder)!r} embeds (EmbeddingModel, flowserve serve), it does not generate")
    return read_model_config(folder)


def embedding_config(folder: Path) -> EncoderConfig | ModelConfig:
    """Of any folder, for its hidden states. Raises ModelNotFoundError, CheckpointError, UnsupportedModelError."""
    if read_config_json(folder)[2] in ENCODERS:
        return read_encoder_config(folder)
    # Without the output projection, which folders of embedding models leave out.
    return replace(read_model_config(folder), tie_word_embeddings=True)


def read_plan(folder: Path, config: EncoderConfig | ModelConfig) -> EncoderPlan | DecoderPlan:
    """Where each tensor lies. Raises CheckpointError for one that is missing or of another shape."""
    checkpoint = Checkpoint(folder)
    if isinstance(config, EncoderConfig):
        return encoder_plan(checkpoint, config)
    return plan_builder(config.architecture)(checkpoint, config)


def context_length(asked: int | None, most: int, option: str = "max_model_len") -> int:
    """Tokens of a context: the model's, or fewer. Raises InvalidConfigError for more."""
    if asked is not None and asked > most:
        raise InvalidConfigError(f"{option} {asked} is more than the model's {most} positions")
    return most if asked is None else asked
