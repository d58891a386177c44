"""Llama 2 and 3: biases only where config.json says so."""

from __future__ import annotations

from ..layers.attention import SelfAttention
from .decoder import DecoderModel
from .weights import Weights


class Llama(DecoderModel):
    def build_attention(self, weights: Weights, index: int) -> SelfAttention:
        bias = weights.config.attention_bias
        return SelfAttention.load(weights, index, qkv_bias=bias, output_bias=bias)
