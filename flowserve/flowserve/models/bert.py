"""BERT, RoBERTa and their kin (MiniLM, BGE, E5, GTE): the names of their tensors, and the plan that they give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import CheckpointError
from .checkpoint import Checkpoint
from .encoder_config import EncoderConfig
from .names import Names
from .parameter import Parameter


@dataclass(frozen=True, slots=True)
class Affine:
    """A weight and its bias: of a product, or of a norm."""

    weight: Parameter
    bias: Parameter


@dataclass(frozen=True, slots=True)
class EncoderLayerPlan:
    """One layer: h = norm(h + output(attention(qkv(h)))), then h = norm(h + down(activation(up(h)))).

    qkv: rows are [query heads, key heads, value heads].
    """

    qkv: Affine
    output: Affine
    attention_norm: Affine
    up: Affine
    down: Affine
    mlp_norm: Affine


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """words, positions, types: tables of embeddings, added up and normed."""

    config: EncoderConfig
    words: Parameter
    positions: Parameter
    types: Parameter
    embedding_norm: Affine
    layers: tuple[EncoderLayerPlan, ...]

    def matrices(self) -> Iterator[Parameter]:
        """Those of the layers."""
        for layer in self.layers:
            yield from (affine.weight for affine in (layer.qkv, layer.output, layer.up, layer.down))


def encoder_plan(checkpoint: Checkpoint, config: EncoderConfig) -> EncoderPlan:
    """Find every tensor, below the name of a model with a head ("bert.") or not. Raises CheckpointError."""
    names = _root(checkpoint)
    embeddings, hidden = names.at("embeddings"), config.hidden_size
    return EncoderPlan(
        config=config,
        words=embeddings.one("word_embeddings.weight", config.vocab_size, hidden),
        positions=embeddings.one("position_embeddings.weight", config.num_position_rows, hidden),
        types=embeddings.one("token_type_embeddings.weight", config.num_types, hidden),
        embedding_norm=_norm(embeddings, hidden),
        layers=tuple(_layer(names.at("encoder").at("layer").at(index), config) for index in range(config.num_layers)),
    )


def _layer(names: Names, config: EncoderConfig) -> EncoderLayerPlan:
    attention, hidden, inner = names.at("attention"), config.hidden_size, config.intermediate_size
    rows = {"query": hidden, "key": hidden, "value": hidden}
    own = attention.at("self")
    return EncoderLayerPlan(
        qkv=Affine(own.joined(rows, "weight", hidden), own.joined(rows, "bias")),
        output=_dense(attention.at("output"), hidden, hidden),
        attention_norm=_norm(attention.at("output"), hidden),
        up=_dense(names.at("intermediate"), inner, hidden),
        down=_dense(names.at("output"), hidden, inner),
        mlp_norm=_norm(names.at("output"), hidden),
    )


def _dense(names: Names, rows: int, columns: int) -> Affine:
    return Affine(names.one("dense.weight", rows, columns), names.one("dense.bias", rows))


def _norm(names: Names, size: int) -> Affine:
    norm = names.at("LayerNorm")
    weight, bias = ("gamma", "beta") if f"{norm.prefix}gamma" in names.checkpoint else ("weight", "bias")
    return Affine(norm.one(weight, size), norm.one(bias, size))


def _root(checkpoint: Checkpoint) -> Names:
    for prefix in ("", "bert.", "roberta."):
        if f"{prefix}embeddings.word_embeddings.weight" in checkpoint:
            return Names(checkpoint, prefix)
    raise CheckpointError(f"{checkpoint.folder}: tensor 'embeddings.word_embeddings.weight' is missing")
