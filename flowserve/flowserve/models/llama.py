"""Llama 2 and 3: biases only where config.json says so."""

from __future__ import annotations

from .checkpoint import Checkpoint
from .config import ModelConfig
from .names import Differences, decoder_plan
from .plan import DecoderPlan


def build_plan(checkpoint: Checkpoint, config: ModelConfig) -> DecoderPlan:
    bias = config.attention_bias
    return decoder_plan(checkpoint, config, Differences(qkv_bias=bias, output_bias=bias, mlp_bias=config.mlp_bias))
