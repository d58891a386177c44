"""Qwen2 and Qwen2.5: biases on queries, keys and values, none on the output."""

from __future__ import annotations

from ..layers.attention import SelfAttention
from .decoder import DecoderModel
from .weights import Weights


class Qwen2(DecoderModel):
    def build_attention(self, weights: Weights, index: int) -> SelfAttention:
        return SelfAttention.load(weights, index, qkv_bias=True, output_bias=False)
