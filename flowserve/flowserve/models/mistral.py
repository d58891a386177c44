"""Mistral: Llama without biases; its sliding window, where it has one, is in ModelConfig.windows."""

from __future__ import annotations

from .checkpoint import Checkpoint
from .config import ModelConfig
from .names import Differences, decoder_plan
from .plan import DecoderPlan


def build_plan(checkpoint: Checkpoint, config: ModelConfig) -> DecoderPlan:
    return decoder_plan(checkpoint, config, Differences())
