"""Qwen3: no biases; queries and keys are normed per head before the rotary embedding."""

from __future__ import annotations

from ..layers.attention import SelfAttention
from .decoder import DecoderModel
from .weights import Weights


class Qwen3(DecoderModel):
    def build_attention(self, weights: Weights, index: int) -> SelfAttention:
        bias = weights.config.attention_bias
        return SelfAttention.load(weights, index, qkv_bias=bias, output_bias=bias, qk_norm=True)
