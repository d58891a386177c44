"""DecoderModel: what all decoder-only models here share. An architecture says how its attention differs."""

from __future__ import annotations

import torch

from ..layers.attention import ForwardContext, SelfAttention
from ..layers.linear import Linear
from ..layers.mlp import GatedMLP
from .weights import Weights


class DecoderLayer:
    """Pre-norm attention and MLP, each added to the residual."""

    def __init__(self, weights: Weights, attention: SelfAttention) -> None:
        config = weights.config
        self.attention = attention
        self.attention_norm = weights.norm("input_layernorm", config.hidden_size)
        self.mlp = GatedMLP(
            weights.at("mlp").fused_linear(
                {"gate_proj": config.intermediate_size, "up_proj": config.intermediate_size},
                config.hidden_size,
                bias=config.mlp_bias,
            ),
            weights.at("mlp").linear("down_proj", config.intermediate_size, config.hidden_size, bias=config.mlp_bias),
            weights.device,
        )
        self.mlp_norm = weights.norm("post_attention_layernorm", config.hidden_size)

    def __call__(self, hidden: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), context)
        return hidden + self.mlp(self.mlp_norm(hidden))


class DecoderModel:
    """Embedding, layers, final norm, output projection. T packed tokens, d hidden size, V vocabulary."""

    def __init__(self, weights: Weights) -> None:
        self.config = config = weights.config
        inner = weights.at("model")
        self.embedding = inner.tensor("embed_tokens.weight", config.vocab_size, config.hidden_size)
        self.layers = []
        for index in range(config.num_layers):
            layer = inner.at("layers").at(index)
            self.layers.append(DecoderLayer(layer, self.build_attention(layer.at("self_attn"), index)))
        self.norm = inner.norm("norm", config.hidden_size)
        if config.tie_word_embeddings:
            self.output = Linear(weights.device.prepare_weight(self.embedding), None, weights.device)
        else:
            self.output = weights.linear("lm_head", config.hidden_size, config.vocab_size)

    def build_attention(self, weights: Weights, index: int) -> SelfAttention:
        """The attention of one layer: biases, norms of queries and keys."""
        raise NotImplementedError

    def forward(self, token_ids: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """token_ids [T] -> hidden states [T, d] after the final norm; keys and values go to the context's storage."""
        hidden = torch.nn.functional.embedding(token_ids, self.embedding)
        for layer in self.layers:
            hidden = layer(hidden, context)
        return self.norm(hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, d] -> [n, V], in float32."""
        return self.output(hidden).float()
