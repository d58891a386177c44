"""Qwen2 and Qwen2.5: biases on queries, keys and values, none on the output."""

from __future__ import annotations

from .checkpoint import Checkpoint
from .config import ModelConfig
from .names import Differences, decoder_plan
from .plan import DecoderPlan


def build_plan(checkpoint: Checkpoint, config: ModelConfig) -> DecoderPlan:
    return decoder_plan(checkpoint, config, Differences(qkv_bias=True))
