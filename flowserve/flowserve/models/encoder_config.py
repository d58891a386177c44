"""EncoderConfig: config.json of a BERT-style encoder, read once and checked. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, UnsupportedArchitectureError, UnsupportedModelError
from .json_fields import FieldReader, read_config_json

ENCODERS = {
    "BertModel": "bert",
    "BertForMaskedLM": "bert",
    "RobertaModel": "roberta",
    "RobertaForMaskedLM": "roberta",
    "XLMRobertaModel": "roberta",
    "XLMRobertaForMaskedLM": "roberta",
    "CamembertModel": "roberta",
}
"""What each architecture counts positions like; they are the same network otherwise."""

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder, under one name each.

    max_positions: tokens of the longest text.  padding_id: of RoBERTa, whose positions begin behind this number and
    whose padding has none; None for BERT, which counts from 0.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_types: int
    max_positions: int
    padding_id: int | None
    layer_norm_eps: float
    activation: str
    dtype: str

    @property
    def num_position_rows(self) -> int:
        """Rows of the checkpoint's table of positions."""
        return self.max_positions + (0 if self.padding_id is None else self.padding_id + 1)

    @property
    def num_parameters(self) -> int:
        """Elements of all matrices of the layers and of the vocabulary."""
        layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        return self.vocab_size * self.hidden_size + self.num_layers * layer


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Raises ModelNotFoundError without config.json, CheckpointError for a missing or wrong field, and
    UnsupportedArchitectureError or UnsupportedModelError for what would silently give other results."""
    path, raw, architecture = read_config_json(folder)
    if architecture not in ENCODERS:
        raise UnsupportedArchitectureError(f"architecture {architecture!r} is no encoder")
    field = FieldReader(raw, path)
    activation = raw.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        supported = ", ".join(ACTIVATIONS)
        raise UnsupportedModelError(f"{path}: hidden_act {activation!r} is not supported; supported: {supported}")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        kind = raw["position_embedding_type"]
        raise UnsupportedModelError(f"{path}: position_embedding_type {kind!r} is not supported; supported: 'absolute'")
    if raw.get("is_decoder"):
        raise UnsupportedModelError(f"{path}: is_decoder is set, but only encoders are supported here")
    padding_id = None
    if ENCODERS[architecture] == "roberta":
        padding_id = raw.get("pad_token_id", 1)
        if type(padding_id) is not int or padding_id < 0:
            raise CheckpointError(f"{path}: field 'pad_token_id' must be a token id, got {padding_id!r}")
    rows = field.count("max_position_embeddings", 512)
    config = EncoderConfig(
        architecture=architecture,
        vocab_size=field.count("vocab_size"),
        hidden_size=field.count("hidden_size"),
        intermediate_size=field.count("intermediate_size"),
        num_layers=field.count("num_hidden_layers"),
        num_heads=field.count("num_attention_heads"),
        num_types=field.count("type_vocab_size", 2),
        max_positions=rows - (0 if padding_id is None else padding_id + 1),
        padding_id=padding_id,
        layer_norm_eps=field.number("layer_norm_eps", 1e-12),
        activation=activation,
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
    )
    if config.max_positions < 1:
        raise CheckpointError(f"{path}: max_position_embeddings {rows} leaves no position behind pad_token_id")
    if config.hidden_size % config.num_heads:
        raise CheckpointError(f"{path}: {config.num_heads} heads do not share hidden_size {config.hidden_size} evenly")
    return config


def is_embedding_model(folder: Path) -> bool:
    """Whether a folder is meant for embeddings: an encoder, a decoder without its output projection (LlamaModel, ...),
    or what sentence-transformers saved. Raises ModelNotFoundError or CheckpointError."""
    _, _, architecture = read_config_json(folder)
    return architecture in ENCODERS or architecture.endswith("Model") or (folder / "modules.json").is_file()
